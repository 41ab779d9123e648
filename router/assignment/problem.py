"""The batch problem: who may answer what, how well, at which cost, under which limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.errors import InvalidRequestError


@dataclass(frozen=True, eq=False)
class BatchProblem:
    """N requests, M models and the limits that hold for the batch as a whole.

    success: (n_requests, n_models) calibrated P(model j answers request i well), in [0, 1].
    cost_usd: (n_requests, n_models) expected cost in USD, >= 0.
    slots: (n_models,) free concurrent sequences of each model, >= 0.
    budget_usd: what the whole batch may spend; `inf` for no budget.
    allowed: (n_requests, n_models) bool; False where the model may not answer the request; None = all may.
    sequences: (n_requests,) slots that a request takes (`n` of an OpenAI request), >= 1; None = 1 each.
    weight: (n_requests,) priority of a request in the objective, >= 0; None = 1 each.
    success_std: (n_requests, n_models) spread of the success estimate, >= 0; robust variants use it.
    success_samples: (n_members, n_requests, n_models) bootstrap members; quantile variants prefer them.
    cost_std_usd: (n_requests, n_models) standard deviation of the cost in USD, >= 0.

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

    def __post_init__(self) -> None:
        success = self._convert("success", np.float64)
        if success.ndim != 2 or 0 in success.shape:
            raise _invalid("success", f"has shape {success.shape}", "give one row a request, one column a model")
        n, m = success.shape
        _check_range("success", success, 0.0, 1.0)
        self._check("cost_usd", np.float64, (n, m), low=0.0)
        self._check("slots", np.int64, (m,), low=0)
        self._check("allowed", np.bool_, (n, m))
        self._check("sequences", np.int64, (n,), low=1)
        self._check("weight", np.float64, (n,), low=0.0)
        self._check("success_std", np.float64, (n, m), low=0.0)
        self._check("cost_std_usd", np.float64, (n, m), low=0.0)
        if self.success_samples is not None:
            members = np.shape(self.success_samples)[:1]
            self._check("success_samples", np.float64, (*members, n, m), low=0.0, high=1.0)
        budget = float(self.budget_usd)
        if not budget >= 0:
            raise _invalid("budget_usd", f"is {budget}", "give an amount of USD >= 0, or inf for no budget")
        object.__setattr__(self, "budget_usd", budget)

    @property
    def n_requests(self) -> int:
        return int(self.success.shape[0])

    @property
    def n_models(self) -> int:
        return int(self.success.shape[1])

    @cached_property
    def value(self) -> FloatArray:
        """(n_requests, n_models) objective of each pair: weight x success."""
        return self.success if self.weight is None else self.success * self.weight[:, None]

    @cached_property
    def load(self) -> IntArray:
        """(n_requests,) slots that each request takes."""
        return np.ones(self.n_requests, np.int64) if self.sequences is None else self.sequences

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
        )

    def _convert(self, field: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        raw = getattr(self, field)
        try:
            array = np.asarray(raw)
            if array.dtype != dtype:
                array = _cast(array, dtype)
        except (TypeError, ValueError) as error:
            raise _invalid(field, "is not an array of numbers", f"give {np.dtype(dtype).name} values") from error
        object.__setattr__(self, field, array)
        return array

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
        array = self._convert(field, dtype)
        if array.shape != shape:
            raise _invalid(field, f"has shape {array.shape}", f"give shape {shape}, as success has it")
        if low is not None:
            _check_range(field, array, low, high)


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
