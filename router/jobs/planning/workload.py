"""What a whole-job plan is made of: what is expected of a job's rows, and the money and time that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Limit
from apportion.router.errors import InvalidRequestError

MOST_TOKENS = 2.0**53
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Workload:
    """What is expected of N rows on M models; variants of one run on the same of the E engines.

    success: (N, M) P(good answer); cost_usd: (N, M) expected cost; tokens: (N,) or (N, M) expected output tokens, None:
    unknown, so that only jobs without a deadline can be planned; allowed: (N, M), None: every model may answer every
    row; cost_std_usd, success_std, success_samples, as of `BatchProblem`: for strategies that allow for what is
    uncertain; answers: (N,) that each row asks for, where means have slots; row_of_column: (M,) the engine of each
    model, whose slots and tokens it takes, None: each has its own.
    """

    success: FloatArray
    cost_usd: FloatArray
    tokens: FloatArray | None = None
    allowed: BoolArray | None = None
    cost_std_usd: FloatArray | None = None
    success_std: FloatArray | None = None
    success_samples: FloatArray | None = None
    answers: IntArray | None = None
    row_of_column: IntArray | None = None

    def __len__(self) -> int:
        return len(self.success)

    @property
    def n_models(self) -> int:
        return int(self.success.shape[1])

    @cached_property
    def engine_of(self) -> IntArray:
        """(M,) index of the engine of each model."""
        return np.arange(self.n_models) if self.row_of_column is None else self.row_of_column

    @property
    def n_engines(self) -> int:
        return int(self.engine_of.max()) + 1

    def rows(self, which: BoolArray | IntArray) -> Workload:
        """Some of the rows: a mask or indices."""

        def part(name: str) -> Any:
            array = getattr(self, name)
            if array is None or name == "row_of_column":
                return array
            return array[:, which] if name == "success_samples" else array[which]

        return Workload(**{field.name: part(field.name) for field in fields(self)})

    def on(self, engines: BoolArray) -> Workload:
        """The same rows where only the models of some engines, (E,), may answer."""
        return replace(self, allowed=np.where(engines[self.engine_of], self.may, False))

    def corrected(self, usd: FloatArray, tokens: FloatArray) -> Workload:
        """The same rows where costs and lengths are so many times, (M,), what was expected."""
        spread = None if self.cost_std_usd is None else self.cost_std_usd * usd
        lengths = None if self.tokens is None else self.lengths() * tokens
        return replace(self, cost_usd=self.cost_usd * usd, cost_std_usd=spread, tokens=lengths)

    @property
    def may(self) -> BoolArray:
        """(N, M) which model may answer which row."""
        return np.ones(self.success.shape, np.bool_) if self.allowed is None else self.allowed

    def lengths(self) -> FloatArray:
        """(N, M) expected output tokens, a view where all models' are the same.

        Raises:
            InvalidRequestError: they are unknown.
        """
        tokens = self._known()
        return np.broadcast_to(tokens[:, None] if tokens.ndim == 1 else tokens, self.success.shape)

    def whole_tokens(self) -> IntArray:
        """(N,) or (N, M) expected output tokens as whole numbers, one at least.

        Raises:
            InvalidRequestError: they are unknown.
        """
        whole: IntArray = np.maximum(np.rint(self._known()), 1.0).astype(np.int64)
        return whole

    def _known(self) -> FloatArray:
        if self.tokens is None:
            raise InvalidRequestError("tokens: missing, and a deadline needs them; predict answers' lengths")
        return self.tokens

    def use(self, model: IntArray) -> FloatArray:
        """(E,) output tokens of a choice; rows at -1 need none."""
        placed = np.flatnonzero(model >= 0)
        tokens = self.lengths()[placed, model[placed]]
        # Counting nothing makes whole numbers.
        use = np.bincount(self.engine_of[model[placed]], weights=tokens, minlength=self.n_engines)
        return use.astype(np.float64)

    def seconds(self, model: IntArray, tokens_per_s: FloatArray, further: FloatArray | None = None) -> float:
        """That a choice needs at so many tokens a second of each engine, (E,); inf: one that it needs has stopped.

        Args:
            further: (E,) tokens beside those of the choice; None: none.
        """
        use = self.use(model) if further is None else self.use(model) + further
        with np.errstate(divide="ignore"):
            return float(np.divide(use, tokens_per_s, out=np.zeros_like(use), where=use > 0).max(initial=0.0))


@dataclass(frozen=True)
class JobLimit:
    """At most so much of a whole job on some models together.

    name: it is told by; of: rows, expected output tokens or expected cost; at_most: of that; columns: that it holds on.
    """

    name: str
    of: Literal["requests", "tokens", "cost_usd"]
    at_most: float
    columns: tuple[int, ...]

    def row(self, workload: Workload) -> Limit:
        """Of the problem of these rows."""
        use = np.zeros(workload.success.shape)
        if self.of == "requests":
            use[:, self.columns] = 1.0
        else:
            each = workload.lengths() if self.of == "tokens" else workload.cost_usd
            use[:, self.columns] = each[:, self.columns]
        return Limit(self.name, use, self.at_most)


@dataclass(frozen=True, eq=False)
class Means:
    """What a job has to spend: money, and tokens until its deadline.

    budget_usd: inf: any; seconds: until the deadline, inf: none; tokens_per_s: (E,) that each engine generates for the
    job, zero while it is gone; None: no deadline can be told; slots: (E,) most answers of each engine, None: any.
    limits: of some models together.
    """

    budget_usd: float = math.inf
    seconds: float = math.inf
    tokens_per_s: FloatArray | None = None
    slots: IntArray | None = None
    limits: tuple[JobLimit, ...] = ()

    def __post_init__(self) -> None:
        if not self.budget_usd >= 0:
            raise InvalidRequestError(f"budget_usd: {self.budget_usd} is no amount; give USD >= 0")
        if not self.seconds >= 0:
            raise InvalidRequestError(f"seconds: {self.seconds} is no time; give seconds >= 0")
        if self.timed and self.tokens_per_s is None:
            raise InvalidRequestError("tokens_per_s: missing, and a deadline needs it; say how fast each model answers")
        if self.timed and self.slots is not None:
            raise InvalidRequestError("slots: not beside a deadline, which limits models by their speed; leave one out")

    @property
    def timed(self) -> bool:
        return math.isfinite(self.seconds)

    def posed(self, workload: Workload) -> Posed:
        """The whole job as one batch problem, whose slots are tokens."""
        rows = tuple(limit.row(workload) for limit in self.limits)
        if not self.timed:
            return Posed(_problem(workload, self._answers(workload), workload.answers, self.budget_usd, rows), None)
        rate = np.asarray(self.tokens_per_s, np.float64)
        if rate.shape != (workload.n_engines,):
            raise InvalidRequestError(
                f"tokens_per_s: has shape {rate.shape}; give one number for each of the {workload.n_engines} engines"
            )
        workload = workload.on(rate > 0)
        slots = _whole(rate * self.seconds)
        return Posed(_problem(workload, slots, workload.whole_tokens(), self.budget_usd, rows), rate)

    def _answers(self, workload: Workload) -> IntArray:
        if self.slots is not None:
            return self.slots
        every = len(workload) if workload.answers is None else int(workload.answers.sum())
        return np.full(workload.n_engines, every)


@dataclass(frozen=True, eq=False)
class Posed:
    """A job as a batch problem; speed: (E,) tokens, its slots, that a second gives, None without a deadline."""

    problem: BatchProblem
    speed: FloatArray | None

    def within(self, budget_usd: float, seconds: float) -> BatchProblem:
        """The same rows with other means."""
        slots = self.problem.slots if self.speed is None else _whole(self.speed * seconds)
        return replace(self.problem, budget_usd=budget_usd, slots=slots)


def _problem(
    workload: Workload, slots: IntArray, load: IntArray | None, budget_usd: float, limits: tuple[Limit, ...]
) -> BatchProblem:
    return BatchProblem(
        workload.success, workload.cost_usd, slots, budget_usd,
        allowed=workload.allowed, sequences=load, cost_std_usd=workload.cost_std_usd,
        success_std=workload.success_std, success_samples=workload.success_samples,
        row_of_column=workload.row_of_column, limits=limits,
    )  # fmt: skip


def _whole(tokens: FloatArray) -> IntArray:
    # A time that was computed from whole tokens gives them back.
    whole: IntArray = np.minimum(np.floor(tokens * (1 + ROUNDING)), MOST_TOKENS).astype(np.int64)
    return whole
