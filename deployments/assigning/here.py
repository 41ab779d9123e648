"""Predicting a file's rows on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from apportion.deployments.assigning.predictions import Predictions, RowEstimator
from apportion.router.prediction.prompts import PromptRequest, RequestFile

PART_ROWS = 2048


def predict_here(
    file: RequestFile, predictions: Predictions, estimator: RowEstimator, told: Callable[[int], None]
) -> None:
    """Predicts the rows of those parts that are not there yet.

    Args:
        told: called with the number of rows that have predictions.
    """
    for first, requests in parts_of(file, PART_ROWS):
        name = f"part-{first:010}.parquet"
        if not predictions.has(name):
            predictions.add(name, estimator.table(range(first, first + len(requests)), requests))
        told(first + len(requests))


def parts_of(file: RequestFile, size: int) -> Iterator[tuple[int, list[PromptRequest]]]:
    """The number of the first row, and the rows, of parts of so many."""
    first, part = 0, []
    for request in file:
        part.append(request)
        if len(part) == size:
            yield first, part
            first, part = first + size, []
    if part:
        yield first, part
