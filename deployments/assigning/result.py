"""The file again, with a model for each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.deployments.assigning.here import PART_ROWS, parts_of
from apportion.router.errors import InvalidRequestError
from apportion.router.jobs.planning.workload import Workload
from apportion.router.prediction.prompts import RequestFile

if TYPE_CHECKING:
    import pandas as pd

    from apportion.router.arrays import IntArray

SUFFIXES = (".csv", ".parquet")


def check_out(out: Path) -> None:
    """Raises: InvalidRequestError: it names no format that results have."""
    if out.suffix not in SUFFIXES:
        raise InvalidRequestError(f"--out {out}: has no format; name it {' or '.join(SUFFIXES)}")


def write_result(out: Path, file: RequestFile, workload: Workload, model: IntArray, names: tuple[str, ...]) -> None:
    """Writes request, prompt, model, success and cost_usd of each row; a row that is left out has no model."""
    half = out.with_name(f".{out.name}.half")
    write = _write_csv if out.suffix == ".csv" else _write_parquet
    write(half, _frames(file, workload, model, names))
    half.replace(out)


def _frames(file: RequestFile, workload: Workload, model: IntArray, names: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    import pandas as pd

    known = np.array([*names, None], dtype=object)  # -1 is the last
    for first, requests in parts_of(file, PART_ROWS):
        rows = np.arange(first, first + len(requests))
        chosen = model[rows]

        def of_chosen(array: Any, rows: IntArray = rows, chosen: IntArray = chosen) -> Any:
            return np.where(chosen < 0, np.nan, array[rows, chosen])

        yield pd.DataFrame(
            {
                "request": rows,
                "prompt": [request.text for request in requests],
                "model": known[chosen],
                "success": of_chosen(workload.success),
                "cost_usd": of_chosen(workload.cost_usd),
            }
        )


def _write_csv(half: Path, frames: Iterator[pd.DataFrame]) -> None:
    with half.open("w", encoding="utf-8", newline="") as stream:
        for number, frame in enumerate(frames):
            frame.to_csv(stream, index=False, header=number == 0)


def _write_parquet(half: Path, frames: Iterator[pd.DataFrame]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = {"request": pa.int64(), "prompt": pa.string(), "model": pa.string()}
    schema = pa.schema([*kinds.items(), ("success", pa.float64()), ("cost_usd", pa.float64())])
    with ParquetWriter(half, schema) as writer:
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
