"""What is expected of a job's rows: asked for in chunks, each of which is kept, so that none is asked for twice."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from apportion.deployments.ingress.openai import ParsedRequest
from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.planning.screening import possible_models, refuse
from apportion.router.batch.policy import ServedModel
from apportion.router.batch.prompt import Prompt
from apportion.router.chat import request_text
from apportion.router.errors import ApportionError
from apportion.router.jobs.blobs import Blobs
from apportion.router.jobs.segments import folder_of
from apportion.router.unpriced import LAYERS, Unpriced, concatenate

logger = logging.getLogger(__name__)

CHUNK = 1024
_SLICE = 256  # rows that are read at a stretch, so that answers of other rows do not wait
BEGINNING_CHARS = 1024  # of a prompt, some 256 tokens
PATIENCE_S = 60.0  # with a predictor that does not answer; then rows are planned without it
AGAIN_S = 1.0

Forecast = Callable[[RouteItem, Prompt], Awaitable[Unpriced]]


@dataclass(frozen=True, eq=False)
class Expected:
    """What is expected of N rows on M models.

    Args:
        table: (6, N, M), as `Unpriced` has it.
        may: (N, M), whether the model may answer the row; none may answer a row that cannot be served.
        beginnings: (N,), numbers that stand for how the prompts begin.
        guessed: (N,), rows that no predictor has answered for.
        cascade_usd: (N,), that two answers of a row may be expected to cost together; 0: it is to have one.
    """

    table: NDArray[np.float32]
    may: BoolArray
    beginnings: NDArray[np.uint64]
    guessed: BoolArray
    cascade_usd: FloatArray

    def __len__(self) -> int:
        return len(self.may)

    def of_row(self, models: tuple[str, ...], row: int) -> Unpriced:
        """As the Router is told it."""
        guessed = frozenset({0}) if self.guessed[row] else frozenset[int]()
        return Unpriced(models, self.table[:, row : row + 1], guessed=guessed)

    def packed(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> Expected:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    @classmethod
    def joined(cls, parts: Sequence[Expected]) -> Expected:
        """Of rows that follow each other."""
        return cls(
            np.concatenate([part.table for part in parts], axis=1),
            np.concatenate([part.may for part in parts]),
            np.concatenate([part.beginnings for part in parts]),
            np.concatenate([part.guessed for part in parts]),
            np.concatenate([part.cascade_usd for part in parts]),
        )


@dataclass(frozen=True)
class Forecasting:
    """How rows are forecast.

    Args:
        forecast: asks for one row.
        predictable: whether the predictor is to answer for a prompt.
        models: that are served, at the prices of the moment.
    """

    forecast: Forecast
    predictable: Callable[[Prompt], bool]
    models: Callable[[], tuple[ServedModel, ...]]


class Chunks:
    """The chunks of a job that are kept already, and where the others are put."""

    def __init__(self, blobs: Blobs, job: str, models: tuple[str, ...]) -> None:
        self._blobs = blobs
        self._job = job
        # A deploy that changes the models, or what is kept of them, makes what was kept useless.
        kept = [*(field.name for field in fields(Expected)), *models]
        self._name = hashlib.blake2b("\0".join(kept).encode(), digest_size=6).hexdigest()

    def path(self, number: int) -> str:
        return f"{folder_of(self._job)}/forecasts-{self._name}-{number:06d}.npz"

    def load(self, number: int) -> Expected | None:
        """Raises: OSError: the store fails."""
        try:
            with self._blobs.reading(self.path(number)) as stream:
                return Expected.unpacked(stream.read())
        except FileNotFoundError:
            return None

    def store(self, number: int, chunk: Expected) -> None:
        """Raises: OSError: the store fails."""
        with self._blobs.writing(self.path(number)) as stream:
            stream.write(chunk.packed())


def chunk_rows(total: int) -> Iterator[range]:
    """The rows of each chunk."""
    return (range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK))


async def expected_of(
    rows: range,
    read: Callable[[int], ParsedRequest],
    forecasting: Forecasting,
    refused: Callable[[int, ApportionError], Awaitable[None]],
) -> Expected:
    """Asks for a chunk.

    Args:
        refused: takes rows that cannot be served, and why.
    """
    models = forecasting.models()
    table = np.zeros((len(LAYERS), len(rows), len(models)), np.float32)
    may = np.zeros((len(rows), len(models)), np.bool_)
    beginnings = np.zeros(len(rows), np.uint64)
    guessed = np.zeros(len(rows), np.bool_)
    cascade_usd = np.zeros(len(rows))
    left_s = PATIENCE_S
    for start in range(0, len(rows), _SLICE):
        found: dict[int, tuple[RouteItem, Prompt]] = {}
        for place in range(start, min(start + _SLICE, len(rows))):
            try:
                parsed = read(rows[place])
            except ApportionError as error:
                await refused(rows[place], error)
            else:
                found[place] = parsed.item, parsed.prompt
                beginnings[place] = beginning(parsed.prompt)
                cascade_usd[place] = _cascade_usd(parsed.item)
        await asyncio.sleep(0)
        if not found:
            continue
        unpriced, left_s = await _forecast(list(found.values()), forecasting, left_s)
        places, items = list(found), [item for item, _ in found.values()]
        estimates = unpriced.priced([model.price for model in models])
        possible = possible_models(items, estimates, models)
        table[:, places], may[places] = unpriced.table, possible
        guessed[[places[row] for row in unpriced.guessed]] = True
        everywhere = np.ones_like(possible)
        for row in np.flatnonzero(~possible.any(axis=1)).tolist():
            await refused(rows[places[row]], refuse(items[row], estimates, row, models, everywhere[row]))
    return Expected(table, may, beginnings, guessed, cascade_usd)


async def all_expected(
    total: int,
    chunks: Chunks,
    read: Callable[[int], ParsedRequest],
    forecasting: Forecasting,
    refused: Callable[[int, ApportionError], Awaitable[None]],
    stop: asyncio.Event,
) -> Expected | None:
    """What is expected of all rows of a job, asked for as far as it is not kept; None: it was told to stop.

    Args:
        refused: as of `expected_of`; returns when that is kept.

    Raises:
        OSError: the store fails.
    """
    parts = []
    for number, rows in enumerate(chunk_rows(total)):
        chunk = await asyncio.to_thread(chunks.load, number)
        if chunk is None:
            chunk = await expected_of(rows, read, forecasting, refused)
            await asyncio.to_thread(chunks.store, number, chunk)
        parts.append(chunk)
        if stop.is_set():
            return None
    return Expected.joined(parts)


async def _forecast(
    asked: Sequence[tuple[RouteItem, Prompt]], forecasting: Forecasting, left_s: float
) -> tuple[Unpriced, float]:
    """Asks again for what only the predictor's absence has left without a prediction, for so long."""
    found = await asyncio.gather(*(forecasting.forecast(item, prompt) for item, prompt in asked))
    while left_s > 0:
        missing = [row for row, one in enumerate(found) if one.guessed and forecasting.predictable(asked[row][1])]
        if not missing:
            break
        await asyncio.sleep(AGAIN_S)
        left_s -= AGAIN_S
        again = await asyncio.gather(*(forecasting.forecast(*asked[row]) for row in missing))
        for row, one in zip(missing, again, strict=True):
            found[row] = one
    return concatenate([one.brief(samples=False) for one in found]), left_s


def _cascade_usd(item: RouteItem) -> float:
    if not item.may_cascade:
        return 0.0
    return math.inf if item.ask.max_cost_usd is None else item.ask.max_cost_usd


def beginning(prompt: Prompt) -> int:
    """A number that prompts share which begin alike."""
    text = request_text(prompt.content)[:BEGINNING_CHARS]
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")
