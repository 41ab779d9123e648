"""A folder of predictions: what is expected of each row of a file, in parquet files that stay where a run is cut off.

about.json              what they are predictions of; others are never taken for them
parts/*.parquet         rows in any order: `request` is the row's number in the file, from 0
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.router.errors import InvalidRequestError
from apportion.router.jobs.planning.workload import Workload

if TYPE_CHECKING:
    import pyarrow as pa

    from apportion.router.estimates import Estimates
    from apportion.router.prediction.estimation import Request, RequestEstimator
    from apportion.router.prices import ModelPrice

FORMAT = 1
NUMBERS = ("success", "cost_usd", "tokens", "success_std", "cost_std_usd")
HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class RowEstimator:
    """What a row's prediction is made with; samples: whether what each member of an ensemble says is kept too."""

    estimator: RequestEstimator
    prices: Sequence[ModelPrice]
    samples: bool = False

    def about(self) -> dict[str, Any]:
        """What predictions depend on beside the artefact's files."""
        context = self.estimator.context
        counted = self.estimator.counter is not None
        return {
            "models": list(self.estimator.predictor.models),
            "prices": [repr(price) for price in self.prices],
            "context": None if context is None else context.tolist(),
            "counted_by_models": counted,
            "samples": self.samples,
        }

    def table(self, numbers: Sequence[int], requests: Sequence[Request]) -> pa.Table:
        """Predictions of some rows. A row that nothing can be said of carries why, and no model may answer it."""
        from apportion.router.prediction.estimation import routed

        estimates = routed(self.estimator.estimate(requests, self.prices), self.estimator.predictor)
        return _table(numbers, [request.sequences for request in requests], estimates, self.samples)


@dataclass(frozen=True)
class Predictions:
    """The folder."""

    folder: Path

    @property
    def parts(self) -> Path:
        """Where the parquet files lie."""
        return self.folder / "parts"

    def open(self, about: dict[str, Any], *, anew: bool) -> None:
        """Makes the folder, or takes it as it is if it holds predictions of the same.

        Args:
            anew: whether predictions of something else are removed.

        Raises:
            InvalidRequestError: it holds something else.
        """
        stated = self.folder / "about.json"
        said = json.dumps({"format": FORMAT, **about}, indent=2, sort_keys=True) + "\n"
        if stated.exists():
            if stated.read_text() == said:
                return
            if not anew:
                raise InvalidRequestError(
                    f"{self.folder}: holds predictions of another file, artefact or models; remove it, or name another "
                    "folder with --predictions"
                )
            self.remove()
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InvalidRequestError(f"{self.folder}: holds something else; name another folder with --predictions")
        self.parts.mkdir(parents=True, exist_ok=True)
        stated.write_text(said)

    def has(self, name: str) -> bool:
        """Whether the part is there."""
        return (self.parts / name).exists()

    def add(self, name: str, table: pa.Table) -> None:
        """Writes a part, which is there whole or not at all."""
        from pyarrow import parquet

        half = self.parts / f".{name}.{os.getpid()}"
        parquet.write_table(table, half)
        half.replace(self.parts / name)

    def workload(self, rows: int, n_models: int, *, best_effort: bool) -> Workload:
        """What is expected of all rows.

        Args:
            best_effort: whether rows that cannot be read are left without a model.

        Raises:
            InvalidRequestError: rows are missing, or one cannot be read; says which.
        """
        found = _Gathered(rows, n_models)
        for batch in self._batches():
            found.take(batch)
        return found.workload(best_effort)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        from pyarrow.parquet import ParquetFile

        for file in sorted(self.parts.rglob("[!.]*.parquet")):
            with ParquetFile(file) as parquet:
                yield from parquet.iter_batches()


class _Gathered:
    """Arrays for all rows, filled part by part."""

    def __init__(self, rows: int, n_models: int) -> None:
        self._arrays = {name: np.full((rows, n_models), np.nan) for name in NUMBERS}
        self._allowed = np.zeros((rows, n_models), np.bool_)
        self._answers = np.zeros(rows, np.int64)
        self._samples: Any = None
        self._wrong: tuple[int, str] | None = None

    def take(self, batch: pa.RecordBatch) -> None:
        rows = batch["request"].to_numpy(zero_copy_only=False)
        shape = (len(rows), self._allowed.shape[1])
        for name, array in self._arrays.items():
            array[rows] = _flat(batch[name]).reshape(shape)
        self._allowed[rows] = _flat(batch["allowed"]).reshape(shape)
        self._answers[rows] = batch["answers"].to_numpy(zero_copy_only=False)
        for row, error in zip(rows.tolist(), batch["error"].to_pylist(), strict=True):
            if error is not None and (self._wrong is None or row < self._wrong[0]):
                self._wrong = (row, error)
        if "samples" in batch.schema.names:
            values = _flat(batch["samples"]).reshape(len(rows), -1, shape[1])
            if self._samples is None:
                self._samples = np.zeros((values.shape[1], *self._allowed.shape))
            self._samples[:, rows] = values.transpose(1, 0, 2)

    def workload(self, best_effort: bool) -> Workload:
        missing = int((self._answers == 0).sum())
        if missing:
            raise InvalidRequestError(f"predictions: {missing} rows have none; run again, or remove the folder")
        if self._wrong is not None and not best_effort:
            row, error = self._wrong
            raise InvalidRequestError(f"request {row + 1}: {error}")
        if not np.isfinite(self._arrays["cost_usd"][self._allowed]).all():
            raise InvalidRequestError(
                "artefact: predicts no answer lengths, so costs are unknown; train it on outcomes with tokens or costs"
            )
        found = {name: np.nan_to_num(array, copy=False) for name, array in self._arrays.items()}
        return Workload(
            **found,
            allowed=None if self._allowed.all() else self._allowed,
            success_samples=self._samples,
            answers=self._answers,
        )


def file_hash(*paths: Path) -> str:
    """Of a file's bytes, or of all files of a folder with their names."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found.update(str(file.relative_to(path)).encode())
                with file.open("rb") as stream:
                    while block := stream.read(HASH_BYTES):
                        found.update(block)
    return found.hexdigest()


def _table(numbers: Sequence[int], answers: Sequence[int], estimates: Estimates, samples: bool) -> pa.Table:
    import pyarrow as pa

    n, m = estimates.success.shape
    allowed = estimates.readable()
    allowed[list(estimates.errors)] = False
    columns = {
        "request": pa.array(numbers, pa.int64()),
        "answers": pa.array(answers, pa.int64()),
        "error": pa.array([_said(estimates.errors.get(row)) for row in range(n)], pa.string()),
        "allowed": _wide(allowed, pa.bool_()),
        "success": _wide(estimates.success),
        "cost_usd": _wide(estimates.cost_usd),
        "tokens": _wide(estimates.output_tokens * np.asarray(answers)[:, None]),
        "success_std": _wide(_known(estimates.success_std, (n, m))),
        "cost_std_usd": _wide(_known(estimates.cost_std_usd, (n, m))),
    }
    if samples and estimates.success_samples is not None:
        columns["samples"] = _wide(estimates.success_samples.transpose(1, 0, 2).reshape(n, -1))
    return pa.table(columns)


def _said(error: Any) -> str | None:
    return None if error is None else error.message


def _known(array: Any, shape: tuple[int, int]) -> Any:
    return np.full(shape, np.nan) if array is None else array


def _wide(array: Any, kind: Any = None) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(array), kind or pa.float64()), array.shape[1])


def _flat(column: Any) -> Any:
    return column.flatten().to_numpy(zero_copy_only=False)
