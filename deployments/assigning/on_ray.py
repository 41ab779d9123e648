"""Predicting a file's rows with Ray Data, on a cluster's CPUs or GPUs.

The rows are written to parquet first, numbered, so that Ray reads them whatever the file was, and its checkpoint knows
them by their numbers: a run that is cut off goes on with the rows that have no predictions. The folder has to lie where
every node reaches it under the same path.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apportion.deployments.assigning.here import parts_of
from apportion.deployments.assigning.predictions import Predictions, RowEstimator
from apportion.router.errors import UnavailableError
from apportion.router.prediction.prompts import PromptRequest, RequestFile
from apportion.router.traits import Traits

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_FILE = 16_384
ROWS_A_BATCH = 512


def predict_on_ray(
    file: RequestFile,
    predictions: Predictions,
    made: Callable[[], RowEstimator],
    *,
    address: str | None,
    workers: int,
    gpu: bool,
) -> None:
    """Predicts the rows that have no predictions yet.

    Args:
        made: the estimator; called on every worker.
        address: of the cluster; None: the one that this process or machine belongs to, else one of its own.
        workers: processes that predict; gpu: whether each has a GPU.

    Raises:
        UnavailableError: the cluster cannot be reached.
    """
    asked = _written(file, predictions.folder / "requests")
    with _connected(address):
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.data.checkpoint import CheckpointConfig

        context = DataContext.get_current()
        before = context.checkpoint_config
        context.checkpoint_config = CheckpointConfig(
            "request", str(predictions.folder.absolute() / "checkpoint"), delete_checkpoint_on_success=False
        )
        try:
            ray.data.read_parquet(str(asked.absolute())).map_batches(
                _Worker,
                fn_constructor_args=(made,),
                batch_size=ROWS_A_BATCH,
                batch_format="pyarrow",
                num_gpus=1 if gpu else None,
                compute=ActorPoolStrategy(size=workers),
            ).write_parquet(str(predictions.parts.absolute()))
        finally:
            context.checkpoint_config = before


class _Worker:
    """One process that predicts."""

    def __init__(self, made: Callable[[], RowEstimator]) -> None:
        self._estimator = made()

    def __call__(self, rows: pa.Table) -> pa.Table:
        requests = [_read(text) for text in rows["asked"].to_pylist()]
        return self._estimator.table(rows["request"].to_pylist(), requests)


def _written(file: RequestFile, folder: Path) -> Path:
    """The folder of the numbered rows; written whole, or written again."""
    import pyarrow as pa
    from pyarrow import parquet

    done = folder / "_WRITTEN"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for first, requests in parts_of(file, ROWS_A_FILE):
            numbers = pa.array(range(first, first + len(requests)), pa.int64())
            table = pa.table({"request": numbers, "asked": [_text(request) for request in requests]})
            parquet.write_table(table, folder / f"rows-{first:010}.parquet")
        done.touch()
    return folder


def _text(request: PromptRequest) -> str:
    return json.dumps(asdict(request))


def _read(text: str) -> PromptRequest:
    fields: dict[str, Any] = json.loads(text)
    return PromptRequest(**fields | {"traits": Traits(*fields["traits"])})


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UnavailableError(f"no Ray cluster can be reached ({said}); name it: --engine ray:HOST:PORT") from error
    try:
        yield
    finally:
        ray.shutdown()
