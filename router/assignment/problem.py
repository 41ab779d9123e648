"""The batch problem: who may answer what, how well, at which cost, under which limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.errors import InvalidRequestError

# Slots of an engine without limit.
ENDLESS = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, eq=False)
class Limit:
    """A linear row of the batch problem with a name: sum_ij use[i,j] x[i,j] <= at_most.

    name: it is told by; use: (n_requests, n_models) what each pair takes, finite and >= 0; at_most: finite and >= 0.
    Tokens of one model until a deadline, seconds of latency, a tenant's share of a model are rows of this kind.
    """

    name: str
    use: FloatArray
    at_most: float

    def __post_init__(self) -> None:
        _convert(self, "use", np.float64, f"limits[{self.name}].use")
        _check_range(f"limits[{self.name}].use", self.use, 0.0, None)
        at_most = float(self.at_most)
        if not 0 <= at_most < np.inf:
            mend = "give a number >= 0, or leave the limit out"
            raise _invalid(f"limits[{self.name}].at_most", f"is {at_most}", mend)
        object.__setattr__(self, "at_most", at_most)


@dataclass(frozen=True, eq=False)
class BatchProblem:
    """N requests, M models and the limits that hold for the batch as a whole.

    A model is a column: a way to answer. Several of them can be ways to use one engine (efforts, adapters) and share
    its slots then.

    success: (n_requests, n_models) calibrated P(model j answers request i well), in [0, 1].
    cost_usd: (n_requests, n_models) expected cost in USD, >= 0.
    slots: (n_engines,) free concurrent sequences of each engine, >= 0; `ENDLESS` for one without limit.
    budget_usd: what the whole batch may spend; `inf` for no budget.
    allowed: (n_requests, n_models) bool; False where the model may not answer the request; None = all may.
    sequences: (n_requests,) slots that a request takes (`n` of an OpenAI request), or (n_requests, n_models) where
        that depends on the model; >= 1; None = 1 each.
    weight: (n_requests,) priority of a request in the objective, >= 0; None = 1 each.
    success_std: (n_requests, n_models) spread of the success estimate, >= 0; robust variants use it.
    success_samples: (n_members, n_requests, n_models) bootstrap members; quantile variants prefer them.
    cost_std_usd: (n_requests, n_models) standard deviation of the cost in USD, >= 0.
    row_of_column: (n_models,) index of the engine whose slots a model takes; None = each has an engine of its own.
    limits: further rows, each with a name of its own.
    penalty: (n_requests, n_models) what a pair counts for less than its success says, in success, >= 0: what its
        seconds cost, for example; None = nothing.

    Array-likes are converted once; arrays of the right type are kept as they are, not copied.

    Raises:
        InvalidRequestError: an array has a wrong shape or value; names the field and what to give.
    """

    success: FloatArray
    cost_usd: FloatArray
    slots: IntArray
    budget_usd: float = float("inf")
    allowed: BoolArray | None = None
    sequences: IntArray | None = None
    weight: FloatArray | None = None
    success_std: FloatArray | None = None
    success_samples: FloatArray | None = None
    cost_std_usd: FloatArray | None = None
    row_of_column: IntArray | None = None
    limits: tuple[Limit, ...] = ()
    penalty: FloatArray | None = None

    def __post_init__(self) -> None:
        success = _convert(self, "success", np.float64)
        if success.ndim != 2 or 0 in success.shape:
            raise _invalid("success", f"has shape {success.shape}", "give one row a request, one column a model")
        n, m = success.shape
        _check_range("success", success, 0.0, 1.0)
        self._check("cost_usd", np.float64, (n, m), low=0.0)
        self._check_engines(m)
        self._check("allowed", np.bool_, (n, m))
        self._check("sequences", np.int64, (n, m) if np.ndim(self.sequences) == 2 else (n,), low=1)  # type: ignore[arg-type]
        self._check("weight", np.float64, (n,), low=0.0)
        self._check("success_std", np.float64, (n, m), low=0.0)
        self._check("cost_std_usd", np.float64, (n, m), low=0.0)
        self._check("penalty", np.float64, (n, m), low=0.0)
        if self.success_samples is not None:
            members = np.shape(self.success_samples)[:1]
            self._check("success_samples", np.float64, (*members, n, m), low=0.0, high=1.0)
        budget = float(self.budget_usd)
        if not budget >= 0:
            raise _invalid("budget_usd", f"is {budget}", "give an amount of USD >= 0, or inf for no budget")
        object.__setattr__(self, "budget_usd", budget)
        self._check_limits((n, m))

    @property
    def n_requests(self) -> int:
        return int(self.success.shape[0])

    @property
    def n_models(self) -> int:
        return int(self.success.shape[1])

    @property
    def n_engines(self) -> int:
        return len(self.slots)

    @cached_property
    def engine_of(self) -> IntArray:
        """(n_models,) index of the engine of each model."""
        return np.arange(self.n_models) if self.row_of_column is None else self.row_of_column

    @cached_property
    def value(self) -> FloatArray:
        """(n_requests, n_models) objective of each pair: weight x (success - penalty)."""
        return self.valued(self.success)

    def valued(self, success: FloatArray) -> FloatArray:
        """(n_requests, n_models) objective of each pair if its success were this."""
        worth = success if self.penalty is None else success - self.penalty
        return worth if self.weight is None else worth * self.weight[:, None]

    @cached_property
    def load(self) -> IntArray:
        """(n_requests,) slots that each request takes, or (n_requests, n_models) where that depends on the model."""
        return np.ones(self.n_requests, np.int64) if self.sequences is None else self.sequences

    def use(self, model: IntArray) -> IntArray:
        """(n_engines,) slots that a choice (n_requests,) takes; requests at -1 take none."""
        placed = np.flatnonzero(model >= 0)
        load = self.load[placed] if self.load.ndim == 1 else self.load[placed, model[placed]]
        use = np.bincount(self.engine_of[model[placed]], weights=load, minlength=self.n_engines)
        return use.astype(np.int64)

    def subset(self, keep: BoolArray | IntArray) -> BatchProblem:
        """The same limits with only the requests that `keep` (mask or indices) names."""

        def rows(array: Any) -> Any:
            return None if array is None else array[keep]

        return BatchProblem(
            success=self.success[keep],
            cost_usd=self.cost_usd[keep],
            slots=self.slots,
            budget_usd=self.budget_usd,
            allowed=rows(self.allowed),
            sequences=rows(self.sequences),
            weight=rows(self.weight),
            success_std=rows(self.success_std),
            success_samples=None if self.success_samples is None else self.success_samples[:, keep],
            cost_std_usd=rows(self.cost_std_usd),
            row_of_column=self.row_of_column,
            limits=tuple(replace(limit, use=limit.use[keep]) for limit in self.limits),
            penalty=rows(self.penalty),
        )

    def _check_engines(self, n_models: int) -> None:
        if self.row_of_column is None:
            self._check("slots", np.int64, (n_models,), low=0)
            return
        self._check("slots", np.int64, (np.size(self.slots),), low=0)
        self._check("row_of_column", np.int64, (n_models,), low=0)
        if self.row_of_column.max() >= self.n_engines:
            last = int(self.row_of_column.argmax())
            raise _invalid(
                "row_of_column", f"is {self.row_of_column[last]} at [{last}]",
                f"give an index into slots, which has {self.n_engines} engines",
            )  # fmt: skip

    def _check_limits(self, shape: tuple[int, ...]) -> None:
        names = [limit.name for limit in self.limits]
        for limit in self.limits:
            if limit.use.shape != shape:
                found = f"has shape {limit.use.shape}"
                raise _invalid(f"limits[{limit.name}].use", found, f"give shape {shape}, as success has it")
            if names.count(limit.name) > 1:
                raise _invalid("limits", f"has the name {limit.name!r} twice", "give each limit a name of its own")

    def _check(
        self,
        field: str,
        dtype: type[np.generic],
        shape: tuple[int, ...],
        *,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        if getattr(self, field) is None:
            return
        array = _convert(self, field, dtype)
        if array.shape != shape:
            raise _invalid(field, f"has shape {array.shape}", f"give shape {shape}, as success has it")
        if low is not None:
            _check_range(field, array, low, high)


def _convert(given: object, field: str, dtype: type[np.generic], told: str | None = None) -> npt.NDArray[Any]:
    """The field as an array of that type, put in its place; `told` is what messages call it."""
    try:
        array = np.asarray(getattr(given, field))
        if array.dtype != dtype:
            array = _cast(array, dtype)
    except (TypeError, ValueError) as error:
        raise _invalid(told or field, "is not an array of numbers", f"give {np.dtype(dtype).name} values") from error
    object.__setattr__(given, field, array)
    return array


def _cast(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    cast = array.astype(dtype)
    if not np.issubdtype(dtype, np.floating) and not np.array_equal(cast, array):
        raise ValueError("values would change")
    return cast


def _check_range(field: str, array: npt.NDArray[Any], low: float, high: float | None) -> None:
    smallest, largest = array.min(initial=low), array.max(initial=low)
    ceiling = np.inf if high is None else high
    # NaN fails every comparison, so the check is written for what must hold.
    if smallest >= low and largest <= ceiling and np.isfinite(largest):
        return
    where: Callable[[Any], Any] = np.logical_not
    bad = np.argwhere(where((array >= low) & (array <= ceiling) & np.isfinite(array)))[0].tolist()
    interval = f"finite and >= {low:g}" if high is None else f"in [{low:g}, {high:g}]"
    raise _invalid(field, f"is {array[tuple(bad)]} at {bad}", f"every value has to be {interval}")


def _invalid(field: str, problem: str, mend: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field} {problem}; {mend}", param=field)
