"""The workload that is planned for: what each request is worth, costs and needs on every model, and when it comes.

Success is predicted by the artefact that routes requests, or recorded. Recorded scores are hindsight: a router cannot
see them before it decides, so a plan made of them promises more than it can keep; prefer predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.allocation.models import ModelSpec
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.costs import expected_cost
from apportion.router.errors import ConfigurationError, InvalidRequestError
from apportion.router.estimates import Estimates
from apportion.router.texts import numbered_objects

if TYPE_CHECKING:
    from apportion.router.outcomes.table import OutcomesTable
    from apportion.router.prediction.fleet_predictor import FleetPredictor
    from apportion.router.prediction.predictor import Predictor
    from apportion.router.prediction.prompts import PromptRequest
    from apportion.router.prediction.tokens import TokenCounter


PEAK_WINDOW_S = 60.0


@dataclass(frozen=True, eq=False)
class Workload:
    """Estimates of N requests on `models`, and how often they come.

    rate_per_s: requests per second. arrival_s: (N,) seconds from the start, ascending; None: only the rate is known.
    sequences: (N,) answers to each request; None: 1 each. places: of each request, where it was read from, as
    `file, line 3`; empty: nobody knows.

    Raises:
        InvalidRequestError: a value is wrong; names the field.
    """

    models: tuple[str, ...]
    estimates: Estimates
    rate_per_s: float
    arrival_s: FloatArray | None = None
    sequences: IntArray | None = None
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise InvalidRequestError(f"rate_per_s: {self.rate_per_s} is no rate; give requests per second above 0")
        for name in ("success", "cost_usd", "input_tokens", "output_tokens"):
            values = getattr(self.estimates, name)
            if values.shape != (len(self), len(self.models)):
                raise InvalidRequestError(f"{name}: has shape {values.shape}; give a row a request, a column a model")
            if not np.isfinite(values).all() or (values < 0).any():
                raise InvalidRequestError(f"{name}: has values that are negative or missing; fill them in")
        if self.arrival_s is not None and (np.diff(self.arrival_s) < 0).any():
            raise InvalidRequestError("arrival_s: goes back in time; sort the requests by arrival")

    def __len__(self) -> int:
        return len(self.estimates)

    @property
    def answers(self) -> IntArray:
        """(N,) answers to each request."""
        return np.ones(len(self), np.int64) if self.sequences is None else self.sequences

    def allowed(self, specs: Sequence[ModelSpec]) -> BoolArray:
        """(N, M) where the model takes the request, and prompt and answer fit its context.

        Args:
            specs: the workload's models, in order.
        """
        longest = np.array([spec.max_model_len for spec in specs])
        fits = self.estimates.input_tokens + self.estimates.output_tokens <= longest
        return np.asarray(fits & self.estimates.readable(), np.bool_)

    def subset(self, rows: IntArray) -> Workload:
        """These requests, in this order, at the same rate and without arrival times."""
        answers = None if self.sequences is None else self.sequences[rows]
        places = tuple(self.places[row] for row in rows.tolist()) if self.places else ()
        return replace(self, estimates=self.estimates.rows(rows), arrival_s=None, sequences=answers, places=places)

    def place(self, row: int) -> str:
        """Where a request was read from, or its number from 1."""
        return self.places[row] if self.places else f"request {row + 1}"

    def at_quantile(self, quantile: float) -> Workload:
        """The workload with a lower quantile of success; see `Estimates.at_quantile`."""
        return replace(self, estimates=self.estimates.at_quantile(quantile))

    def at_rate(self, rate_per_s: float) -> Workload:
        """The same requests at another rate; arrival times are scaled to it."""
        if self.arrival_s is None:
            return replace(self, rate_per_s=rate_per_s)
        return replace(self, rate_per_s=rate_per_s, arrival_s=self.arrival_s * (self.rate_per_s / rate_per_s))

    def peak_rate_per_s(self, quantile: float = 0.95, window_s: float = PEAK_WINDOW_S) -> float:
        """The rate that a share `quantile` of all windows of `window_s` seconds does not pass.

        Raises:
            InvalidRequestError: there are no arrival times, or they span less than two windows.
        """
        if self.arrival_s is None:
            raise InvalidRequestError(
                "arrival_s: a peak rate needs arrival times; give `arrival_s` for every request, or set `--peak 0`"
            )
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        if span < 2 * window_s:
            raise InvalidRequestError(
                f"arrival_s: spans {span:g} s, but a peak over windows of {window_s:g} s needs twice that; give more"
            )
        starts = np.arange(self.arrival_s[0], self.arrival_s[-1] - window_s, window_s / 4)
        ends = np.searchsorted(self.arrival_s, starts + window_s)
        counts = ends - np.searchsorted(self.arrival_s, starts)
        return float(np.quantile(counts, quantile) / window_s)

    def batches(self, size: int, count: int, seed: int = 0) -> IntArray:
        """(count, size) row numbers of sampled batches: runs of one random order after another, no row twice in one."""
        if size < 1 or count < 1:
            raise InvalidRequestError(f"batch_size: {count} batches of {size} are none; give whole numbers from 1")
        if size > len(self):
            raise InvalidRequestError(
                f"batch_size: {size} is more than the {len(self)} requests; give a smaller size or more requests"
            )
        rng = np.random.default_rng(seed)
        per_order = len(self) // size
        orders = [rng.permutation(len(self))[: per_order * size] for _ in range(-(-count // per_order))]
        return np.concatenate(orders).reshape(-1, size)[:count]


def recorded_workload(table: OutcomesTable, specs: Sequence[ModelSpec], rate_per_s: float) -> Workload:
    """The workload of recorded outcomes; requests that lack an outcome or tokens of a model are left out.

    Raises:
        ConfigurationError: no request is left.
        OutcomesTableError: a model has no outcomes.
    """
    columns = [column for spec in specs for column in spec.columns]
    table = table.select_models([column.name for column in columns])
    lengths = table.output_tokens  # as they were, so nothing spreads or is cut off
    cost_usd, _ = expected_cost(lengths, np.zeros_like(lengths), table.input_tokens, [one.price for one in columns])
    whole = np.isfinite(table.scores).all(axis=1) & np.isfinite(cost_usd).all(axis=1)
    if not whole.any():
        raise ConfigurationError(
            "outcomes: no request has score and tokens of every model; add outcomes, or score with a predictor"
        )
    recorded = Estimates(table.scores, cost_usd, table.input_tokens, lengths).rows(np.flatnonzero(whole))
    return Workload(tuple(spec.name for spec in specs), by_model(recorded, specs), rate_per_s)


def answer_bounds(columns: Sequence[ModelSpec]) -> tuple[FloatArray, FloatArray]:
    """(M,) tokens of prompt and answer together, and (M,) of the longest answer, inf where only the former ends it."""
    context = np.array([column.max_model_len for column in columns], np.float64)
    return context, np.array([column.max_tokens or np.inf for column in columns], np.float64)


def by_model(estimates: Estimates, specs: Sequence[ModelSpec]) -> Estimates:
    """Estimates of variants as those of their models: a plan has room for each request's likeliest variant.

    Args:
        estimates: with a column for each of the specs' `columns`.
    """
    if not any(spec.variants for spec in specs):
        return estimates
    return estimates.best_of(np.repeat(np.arange(len(specs)), [len(spec.columns) for spec in specs]))


def predicted_workload(
    requests: Sequence[PromptRequest],
    predictor: Predictor | FleetPredictor,
    specs: Sequence[ModelSpec],
    *,
    counter: TokenCounter | None = None,
    rate_per_s: float | None = None,
    arrival_s: FloatArray | None = None,
) -> Workload:
    """The workload of requests, estimated as the service would.

    Args:
        predictor: its models are the columns of `specs`, in that order.
        counter: the columns' tokenizers, in that order; None: the encoder's tokenizer stands for all of them.
        rate_per_s: None: the arrivals' rate.

    Raises:
        ConfigurationError: the artefact predicts no lengths.
        InvalidRequestError: a request cannot be counted; gives its place.
    """
    from apportion.router.prediction.estimation import RequestEstimator, routed

    columns = [column for spec in specs for column in spec.columns]
    estimator = RequestEstimator(predictor, counter, *answer_bounds(columns))
    estimates = by_model(routed(estimator.estimate(requests, [one.price for one in columns]), predictor), specs)
    for row, error in estimates.errors.items():
        raise InvalidRequestError(f"{requests[row].where or f'request {row + 1}'}: {error.message}")
    if not np.isfinite(estimates.output_tokens).all():
        raise ConfigurationError("artefact: predicts no answer lengths; train it on outcomes with tokens or costs")
    workload = Workload(
        models=tuple(spec.name for spec in specs),
        estimates=estimates,
        rate_per_s=_mean_rate_per_s(arrival_s) if arrival_s is not None or rate_per_s is None else rate_per_s,
        arrival_s=arrival_s,
        sequences=np.array([request.sequences for request in requests], np.int64),
        places=tuple(request.where or f"request {row}" for row, request in enumerate(requests, start=1)),
    )
    return workload if rate_per_s is None else workload.at_rate(rate_per_s)


def read_timed_requests(file: Path) -> tuple[list[PromptRequest], FloatArray | None]:
    """Requests, and their arrival times where every line has one, sorted by arrival.

    The file is one for `read_requests`, whose lines may have `arrival_s` too.

    Raises:
        InvalidRequestError: a line cannot be read; names file and line.
    """
    from apportion.router.prediction.prompts import read_requests

    requests = read_requests(file)
    if file.suffix != ".jsonl":
        return requests, None
    times = [(number, row.get("arrival_s")) for number, row in numbered_objects(file)]
    missing = [number for number, time in times if time is None]
    if len(missing) == len(times):
        return requests, None
    if missing:
        raise InvalidRequestError(f"{file}, line {missing[0]}: no arrival_s, but other lines have it; add it")
    arrivals = np.array([_seconds(time, f"{file}, line {number}") for number, time in times], np.float64)
    order = np.argsort(arrivals, kind="stable")
    return [requests[i] for i in order.tolist()], arrivals[order] - arrivals[order[0]]


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InvalidRequestError(f"{where}: arrival_s is {value!r}; give seconds as a number")
    return float(value)


def _mean_rate_per_s(arrival_s: FloatArray | None) -> float:
    if arrival_s is None:
        raise InvalidRequestError("rate_per_s: neither a rate nor arrival times are given; give one of them")
    span = float(arrival_s[-1] - arrival_s[0])
    if len(arrival_s) < 2 or span <= 0:
        raise InvalidRequestError("arrival_s: spans no time; give a rate")
    return (len(arrival_s) - 1) / span
