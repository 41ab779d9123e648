"""How long requests take on a replica at a given rate: a queue in front of its slots, and engines that slow down.

The number of requests on a replica is a birth-death process: they come at random, and with k of them running one ends
every L step(k) / k + P seconds, where L are tokens of an answer, P the time that its prompt keeps the engine, and
step(k) comes from the profile. While all have a slot, only the mean of L matters (a processor that is shared; Kelly
1979); with all slots taken they wait first come, first served, and the wait behind them is exponential, longer or
shorter than that of exponential lengths by (1 + cv^2) / 2 (M/G/c; Lee and Longton 1959). `simulate` checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from apportion.allocation.replica import Profile
from apportion.allocation.sizing import Lengths
from apportion.allocation.speed import cut, step_curve
from apportion.router.arrays import FloatArray
from apportion.router.errors import InvalidRequestError

# Requests that a distribution of lengths is looked at by, and states of a replica.
_ROWS, _STATES = 200, 9
_HALVINGS = 40


@dataclass(frozen=True)
class LatencyBounds:
    """Seconds that a share `percentile` of requests keeps: to the first token, for each further token, in all."""

    first_token_s: float = math.inf
    token_s: float = math.inf
    total_s: float = math.inf
    percentile: float = 0.95

    def __post_init__(self) -> None:
        for name in ("first_token_s", "token_s", "total_s"):
            if not getattr(self, name) > 0:
                raise InvalidRequestError(f"{name}: {getattr(self, name)} is no time; give seconds above 0")
        if not 0.5 <= self.percentile < 1:
            raise InvalidRequestError(f"percentile: {self.percentile} is no such share; give one in [0.5, 1)")

    @property
    def any(self) -> bool:
        """Whether anything is bounded."""
        return min(self.first_token_s, self.token_s, self.total_s) < math.inf


@dataclass(frozen=True, eq=False)
class Queue:
    """One replica and the requests that come to it, at rate_per_s."""

    profile: Profile
    lengths: Lengths
    rate_per_s: float

    @cached_property
    def _steps(self) -> FloatArray:
        """(slots,) seconds of a step with 1, 2, ... sequences."""
        known, steps_s = step_curve(self.profile)
        return np.asarray(np.interp(np.arange(1, self.profile.max_num_seqs + 1), known, steps_s), np.float64)

    @cached_property
    def _reading_s(self) -> FloatArray:
        """(n,) for which the engine reads each prompt."""
        return self.lengths.input_tokens / self.profile.prefill_tokens_per_s + self.profile.prompt_step_s

    @cached_property
    def _mean(self) -> tuple[float, float]:
        """Tokens of an answer, and seconds of reading."""
        weight = self.lengths.weight / self.lengths.weight.sum()
        return float(weight @ self.lengths.output_tokens), float(weight @ self._reading_s)

    @cached_property
    def _rates(self) -> FloatArray:
        """(slots,) requests that end a second with 1, 2, ... running."""
        tokens, reading_s = self._mean
        running = np.arange(1, len(self._steps) + 1)
        return np.asarray(1 / (tokens * self._steps / running + reading_s), np.float64)

    @property
    def most_per_s(self) -> float:
        """Requests a second that it can serve at all."""
        return float(self._rates[-1])

    @property
    def stable(self) -> bool:
        return self.rate_per_s < self.most_per_s

    @cached_property
    def _states(self) -> FloatArray:
        """(slots + 1,) chance that 0, 1, ... requests are there, the last: that all slots are taken."""
        level = np.concatenate([[0.0], np.cumsum(np.log(self.rate_per_s / self._rates))])
        # While prompts are read nothing ends, so the number spreads more than that of a processor that is shared; by
        # how much was found beside the simulator.
        chance = np.exp((level - level.max()) * self._free_of_reading)
        chance[-1] /= 1 - self.rate_per_s / self.most_per_s
        return np.asarray(chance / chance.sum(), np.float64)

    @property
    def waits(self) -> float:
        """Chance that a request finds all slots taken."""
        return float(self._states[-1]) if self.stable else 1.0

    @property
    def at_once(self) -> float:
        """Mean number of requests on the replica, waiting ones too."""
        slots, ratio = len(self._steps), self.rate_per_s / self.most_per_s
        running = float(np.arange(slots + 1) @ self._states)
        return running + self.waits * ratio / (1 - ratio) * self._leaning if self.stable else math.inf

    @cached_property
    def _leaning(self) -> float:
        """(1 + cv^2) / 2 of the time that a request keeps the full engine."""
        busy_s = self.lengths.output_tokens * self._steps[-1] / len(self._steps) + self._reading_s
        weight = self.lengths.weight / self.lengths.weight.sum()
        mean = float(weight @ busy_s)
        return (1 + float(weight @ (busy_s - mean) ** 2) / mean**2) / 2

    def _token_s(self, running: FloatArray) -> FloatArray:
        """Seconds a token with so many running, while others' prompts are read in between."""
        return np.asarray(self._steps[running.astype(int) - 1] / self._free_of_reading, np.float64)

    @property
    def _free_of_reading(self) -> float:
        return max(1 - self.rate_per_s * self._mean[1], 1e-9)

    @cached_property
    def _square_s2(self) -> float:
        """Mean square of the seconds that reading a prompt takes."""
        weight = self.lengths.weight / self.lengths.weight.sum()
        return float(weight @ self._reading_s**2)

    @cached_property
    def _seen(self) -> tuple[FloatArray, FloatArray]:
        """How many run, itself too, beside a request that need not wait, and how likely; then all slots."""
        free = self._states[:-1]
        ends = np.cumsum(free)
        picks = (np.arange(_STATES) + 0.5) / _STATES * ends[-1]
        running = np.searchsorted(ends, picks) + 1.0
        return np.append(running, float(len(self._steps))), np.append(np.full(_STATES, ends[-1] / _STATES), self.waits)

    def later_than(
        self, first_token_s: float = math.inf, token_s: float = math.inf, total_s: float = math.inf
    ) -> float:
        """The largest share of requests that is later than one of these."""
        if not self.stable:
            return 1.0
        running, likely = self._seen
        each = self._token_s(running)
        # What is left of the step under way, and the one that reads its own prompt.
        first = (1.5 * self._steps[running.astype(int) - 1] / self._free_of_reading)[:, None] + self._reading_s
        late = [self._slow(each, likely, token_s)] if token_s < math.inf else [0.0]
        if first_token_s < math.inf:
            reading = 1 - self._free_of_reading
            others_s = self._square_s2 / self._mean[1] / self._free_of_reading if reading else 0.0
            late.append(
                (1 - reading) * self._late(first, likely, first_token_s)
                + reading * self._late(first + others_s, likely, first_token_s)
            )
        if total_s < math.inf:
            whole = first + each[:, None] * np.maximum(self.lengths.output_tokens - 1, 0.0)
            late.append(self._late(whole, likely, total_s))
        return max(late)

    def _slow(self, each: FloatArray, likely: FloatArray, token_s: float) -> float:
        """How many answers get their tokens later than that: of a short one, chance decides how many prompts of others
        are read meanwhile.
        """
        from scipy.special import ndtr

        answers = np.maximum(self.lengths.output_tokens, 1.0)
        spread = np.sqrt(self.rate_per_s * self._square_s2 * each[:, None] / answers) + 1e-12
        chance = ndtr((each[:, None] - token_s) / spread)
        return float(likely @ chance @ (self.lengths.weight / self.lengths.weight.sum()))

    def _late(self, times: FloatArray, likely: FloatArray, bound_s: float) -> float:
        """times: (states, n) without the wait, which those of the last state have before them."""
        left = bound_s - times
        late = (left < 0).astype(np.float64)
        pace = (self.most_per_s - self.rate_per_s) / self._leaning
        late[-1] = np.where(left[-1] < 0, 1.0, np.exp(-pace * np.maximum(left[-1], 0.0)))
        return float(likely @ late @ (self.lengths.weight / self.lengths.weight.sum()))

    def keeps(self, bounds: LatencyBounds) -> bool:
        """Whether the share of requests that the bounds speak of keeps each of them."""
        late = self.later_than(bounds.first_token_s, bounds.token_s, bounds.total_s)
        return late <= 1 - bounds.percentile


@dataclass(frozen=True)
class Expected:
    """Seconds that a share `percentile` of a model's requests keeps at the planned rate, and its requests at once.

    None: more come than the replicas serve, so they wait without end.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    percentile: float
    first_token_s: float | None
    token_s: float | None
    total_s: float | None
    at_once: float | None

    def keeps(self, bounds: LatencyBounds) -> bool:
        """Whether the model's requests keep the bounds, up to the rounding of the search for their times."""
        pairs = ((self.first_token_s, bounds.first_token_s), (self.token_s, bounds.token_s))
        return all(
            bound == math.inf or (time is not None and time <= 1.001 * bound)
            for time, bound in (*pairs, (self.total_s, bounds.total_s))
        )


def expected(model: str, replicas: Sequence[tuple[Queue, int]], percentile: float) -> Expected:
    """What requests to the model's replicas, so many of each kind, can expect; each is weighted by its rate."""
    queues = [queue for queue, _ in replicas]
    rates = np.array([queue.rate_per_s * number for queue, number in replicas])
    share = rates / rates.sum()

    if not all(queue.stable for queue in queues):
        return Expected(model, percentile, None, None, None, None)

    def least(late: Callable[[Queue, float], float]) -> float:
        low, high = 0.0, 1e-3
        while sum(s * late(q, high) for s, q in zip(share, queues, strict=True)) > 1 - percentile:
            low, high = high, 2 * high
        for _ in range(20):
            middle = (low + high) / 2
            too_late = sum(s * late(q, middle) for s, q in zip(share, queues, strict=True)) > 1 - percentile
            low, high = (middle, high) if too_late else (low, middle)
        return high

    return Expected(
        model,
        percentile,
        least(lambda queue, bound_s: queue.later_than(first_token_s=bound_s)),
        least(lambda queue, bound_s: queue.later_than(token_s=bound_s)),
        least(lambda queue, bound_s: queue.later_than(total_s=bound_s)),
        sum(queue.at_once * number for queue, number in replicas),
    )


def within(profile: Profile, lengths: Lengths, bounds: LatencyBounds) -> tuple[Profile, float] | str:
    """The profile with the sequences that the bound on tokens allows, and the rate that keeps all bounds; or why none.

    A replica that runs fewer sequences than it could has others wait instead of slowing down those that run.
    """
    few = few_rows(lengths)
    kept = _fast_enough(profile, few, bounds.token_s)
    if kept is None:
        token_s = Queue(cut(profile, 1), few, 0.0)._steps[0]
        return f"a token takes {token_s:.3g} s on an idle replica, and {bounds.token_s:g} are allowed"
    low, high = 0.0, Queue(kept, few, 0.0).most_per_s
    if not Queue(kept, few, 1e-6 * high).keeps(bounds):
        late = Queue(kept, few, 1e-6 * high).later_than(bounds.first_token_s, bounds.token_s, bounds.total_s)
        return f"on an idle replica {late:.0%} of the requests are later than the bounds on latency allow"
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if Queue(kept, few, middle).keeps(bounds) else (low, middle)
        if high - low < 1e-3 * high:
            break
    return kept, low


def _fast_enough(profile: Profile, lengths: Lengths, token_s: float) -> Profile | None:
    """With the most sequences that a full replica gives tokens to in time; None: not even one is."""
    if token_s == math.inf:
        return profile
    steps = Queue(profile, lengths, 0.0)
    reading = steps._rates * steps._mean[1]
    able = np.flatnonzero(steps._steps / np.maximum(1 - reading, 1e-9) <= token_s)
    return cut(profile, int(able[-1]) + 1) if len(able) else None


def few_rows(lengths: Lengths) -> Lengths:
    """A likeness of the lengths with few rows: groups of equal weight in the order of their answers."""
    if len(lengths.weight) <= _ROWS:
        return lengths
    order = np.argsort(lengths.output_tokens, kind="stable")
    ends = np.cumsum(lengths.weight[order])
    picks = np.searchsorted(ends, (np.arange(_ROWS) + 0.5) / _ROWS * ends[-1])
    rows = order[np.minimum(picks, len(order) - 1)]
    return Lengths(lengths.input_tokens[rows], lengths.output_tokens[rows], np.full(_ROWS, 1 / _ROWS))
