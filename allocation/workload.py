"""The workload that is planned for: what each request is worth, costs and needs on every model, and when it comes.

Success is predicted by the artefact that routes requests, or recorded. Recorded scores are hindsight: a router cannot
see them before it decides, so a plan made of them promises more than it can keep; prefer predictions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.allocation.models import ModelSpec
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.errors import ConfigurationError, InvalidRequestError
from apportion.router.prices import price_arrays

if TYPE_CHECKING:
    from apportion.router.outcomes.table import OutcomesTable
    from apportion.router.prediction.predictor import Predictor


PEAK_WINDOW_S = 60.0
_ARRAYS = ("success", "cost_usd", "input_tokens", "output_tokens")


@dataclass(frozen=True, eq=False)
class Workload:
    """N requests on M models. success in [0, 1], cost_usd, input_tokens, output_tokens: (n_requests, n_models).

    rate_per_s: requests per second. arrival_s: (n_requests,) seconds from the start, ascending; None: only the rate
    is known. success_std: (n_requests, n_models) spread of the estimate; success_samples: (n_members, n_requests,
    n_models) its bootstrap members; both for robust plans. Raises InvalidRequestError naming the field and the mend.
    """

    models: tuple[str, ...]
    success: FloatArray
    cost_usd: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    rate_per_s: float
    arrival_s: FloatArray | None = None
    success_std: FloatArray | None = None
    success_samples: FloatArray | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise InvalidRequestError(f"rate_per_s is {self.rate_per_s}: give requests per second above 0.")
        for name in _ARRAYS:
            values = getattr(self, name)
            if values.shape != (len(self.success), len(self.models)):
                raise InvalidRequestError(f"`{name}` has shape {values.shape}: give a row a request, a column a model.")
            if not np.isfinite(values).all() or (values < 0).any():
                raise InvalidRequestError(f"`{name}` has values that are negative or missing: fill them in.")
        if self.arrival_s is not None and (np.diff(self.arrival_s) < 0).any():
            raise InvalidRequestError("`arrival_s` goes back in time: sort the requests by arrival.")

    def __len__(self) -> int:
        return len(self.success)

    def within_context(self, specs: Sequence[ModelSpec]) -> BoolArray:
        """(n_requests, n_models) where prompt and answer fit the context; specs: the workload's models, in order."""
        longest = np.array([spec.max_model_len for spec in specs])
        return np.asarray(self.input_tokens + self.output_tokens <= longest, np.bool_)

    def subset(self, rows: IntArray) -> Workload:
        """These requests, in this order, at the same rate and without arrival times."""
        spread = None if self.success_std is None else self.success_std[rows]
        samples = None if self.success_samples is None else self.success_samples[:, rows]
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, arrival_s=None, success_std=spread, success_samples=samples, **arrays)

    def at_quantile(self, quantile: float) -> Workload:
        """Success replaced by a lower quantile of its estimate, from the members or else from the spread.

        For entry-wise intervals this is the max-min plan (arXiv 2603.26796, quantile variant), as x >= 0.
        Raises InvalidRequestError when neither is known, or for a quantile outside (0, 1).
        """
        if not 0 < quantile < 1:
            raise InvalidRequestError(f"The quantile is {quantile}: give a number between 0 and 1.")
        if self.success_samples is not None:
            lower = np.quantile(self.success_samples, quantile, axis=0)
        elif self.success_std is not None:
            lower = np.clip(self.success + NormalDist().inv_cdf(quantile) * self.success_std, 0.0, 1.0)
        else:
            raise InvalidRequestError(
                "A quantile needs predicted success with its spread: score the workload with a predictor."
            )
        return replace(self, success=np.asarray(lower, np.float64))

    def at_rate(self, rate_per_s: float) -> Workload:
        """The same requests at another rate; arrival times are scaled to it."""
        if self.arrival_s is None:
            return replace(self, rate_per_s=rate_per_s)
        return replace(self, rate_per_s=rate_per_s, arrival_s=self.arrival_s * (self.rate_per_s / rate_per_s))

    def peak_rate_per_s(self, quantile: float = 0.95, window_s: float = PEAK_WINDOW_S) -> float:
        """The rate that a share `quantile` of all windows of `window_s` seconds does not pass.

        Raises InvalidRequestError when there are no arrival times, or they span less than two windows.
        """
        if self.arrival_s is None:
            raise InvalidRequestError(
                "A peak rate needs arrival times: give `arrival_s` for every request, or set `--peak 0`."
            )
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        if span < 2 * window_s:
            raise InvalidRequestError(
                f"The arrivals span {span:g} s: a peak over windows of {window_s:g} s needs twice that; give more."
            )
        starts = np.arange(self.arrival_s[0], self.arrival_s[-1] - window_s, window_s / 4)
        ends = np.searchsorted(self.arrival_s, starts + window_s)
        counts = ends - np.searchsorted(self.arrival_s, starts)
        return float(np.quantile(counts, quantile) / window_s)

    def batches(self, size: int, count: int, seed: int = 0) -> IntArray:
        """(count, size) row numbers of sampled batches: runs of one random order after another, no row twice in one."""
        if size < 1 or count < 1:
            raise InvalidRequestError(f"{count} batches of {size}: give whole numbers from 1.")
        if size > len(self):
            raise InvalidRequestError(
                f"Batches of {size} from {len(self)} requests: give a smaller size or more requests."
            )
        rng = np.random.default_rng(seed)
        per_order = len(self) // size
        orders = [rng.permutation(len(self))[: per_order * size] for _ in range(-(-count // per_order))]
        return np.concatenate(orders).reshape(-1, size)[:count]


def recorded_workload(table: OutcomesTable, specs: Sequence[ModelSpec], rate_per_s: float) -> Workload:
    """The workload of recorded outcomes; requests that lack an outcome or tokens of a model are left out.

    Raises ConfigurationError when no request is left, OutcomesTableError for a model without outcomes.
    """
    table = table.select_models([spec.name for spec in specs])
    costs = _listed_cost_usd(specs, table.input_tokens, table.output_tokens)
    whole = np.isfinite(table.scores).all(axis=1) & np.isfinite(costs).all(axis=1)
    if not whole.any():
        raise ConfigurationError(
            "No request has score and tokens of every model: add outcomes, or score with a predictor."
        )
    scores, costs, inputs, outputs = (a[whole] for a in (table.scores, costs, table.input_tokens, table.output_tokens))
    return Workload(table.models, scores, costs, inputs, outputs, rate_per_s)


def predicted_workload(
    prompts: Sequence[str],
    predictor: Predictor,
    specs: Sequence[ModelSpec],
    *,
    rate_per_s: float | None = None,
    arrival_s: FloatArray | None = None,
) -> Workload:
    """The workload of prompts, scored by a predictor whose models are those of `specs`, in that order.

    Without `rate_per_s` the rate is the arrivals'. Raises ConfigurationError when the artefact predicts no lengths.
    """
    prediction = predictor.predict(prompts)
    if not np.isfinite(prediction.output_tokens).all():
        raise ConfigurationError("The artefact predicts no answer lengths: train it on outcomes with tokens or costs.")
    counts = np.asarray(predictor.encoder.count_tokens(prompts), np.float64)
    inputs = np.repeat(counts[:, None], len(specs), axis=1)
    workload = Workload(
        models=tuple(spec.name for spec in specs),
        success=prediction.success,
        cost_usd=_listed_cost_usd(specs, inputs, prediction.output_tokens),
        input_tokens=inputs,
        output_tokens=prediction.output_tokens,
        rate_per_s=_mean_rate_per_s(arrival_s) if arrival_s is not None or rate_per_s is None else rate_per_s,
        arrival_s=arrival_s,
        success_std=prediction.success_std,
        success_samples=prediction.success_samples,
    )
    return workload if rate_per_s is None else workload.at_rate(rate_per_s)


def read_requests(file: Path) -> tuple[list[str], FloatArray | None]:
    """Prompts, and their arrival times where every line has one, sorted by arrival.

    The file: text with one prompt a line, or .jsonl with `prompt` or `messages` and optionally `arrival_s`.
    Raises InvalidRequestError naming file, line and mend.
    """
    from apportion.router.prediction.prompts import numbered_lines, read_prompts

    prompts = read_prompts(file)
    if file.suffix != ".jsonl":
        return prompts, None
    times = [(number, json.loads(line).get("arrival_s")) for number, line in numbered_lines(file)]
    missing = [number for number, time in times if time is None]
    if len(missing) == len(times):
        return prompts, None
    if missing:
        raise InvalidRequestError(f"{file}, line {missing[0]}: no arrival_s, but other lines have it; add it.")
    arrivals = np.array([_seconds(time, f"{file}, line {number}") for number, time in times], np.float64)
    order = np.argsort(arrivals, kind="stable")
    return [prompts[i] for i in order.tolist()], arrivals[order] - arrivals[order[0]]


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InvalidRequestError(f"{where}: arrival_s is {value!r}; give seconds as a number.")
    return float(value)


def _mean_rate_per_s(arrival_s: FloatArray | None) -> float:
    if arrival_s is None:
        raise InvalidRequestError("Neither a rate nor arrival times: give one of them.")
    span = float(arrival_s[-1] - arrival_s[0])
    if len(arrival_s) < 2 or span <= 0:
        raise InvalidRequestError("The arrivals span no time: give a rate.")
    return (len(arrival_s) - 1) / span


def _listed_cost_usd(specs: Sequence[ModelSpec], input_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
    usd_per_input, usd_per_output = price_arrays(spec.price for spec in specs)
    return input_tokens * usd_per_input + output_tokens * usd_per_output
