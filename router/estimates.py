"""The table of what is expected of N requests on M models, which every part of the router and the planner shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Limit
from apportion.router.costs import corrected_cost
from apportion.router.errors import ApportionError, InvalidRequestError
from apportion.router.prices import ModelPrice

_TABLES = (
    "success", "cost_usd", "input_tokens", "output_tokens", "success_std", "cost_std_usd", "calibrated_success",
    "uncorrected_usd", "read_tokens", "seconds",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates for N requests on M models; every array is (N, M), `success_samples` (B, N, M).

    `success` is the chance of a good answer, `success_std` its spread, `success_samples` what each member of the
    ensemble says. `cost_usd` is the expected cost with `cost_std_usd`, its standard deviation; spreads are None where
    nobody knows them. `calibrated_success` is `success` before the incumbent's was lifted; None where nothing was.
    `output_tokens` is the expected length of one answer. `errors` holds the rows that could not be
    estimated; their values are placeholders. `refusals` says by row and column why a model cannot read a request that
    others can. `guessed` are the rows that no predictor was asked for, or answered. `uncorrected_usd` is the expected
    cost before it was corrected by how long answers have turned out to be, `read_tokens` are those of prompts by how
    long these have; None: it was not. `seconds` is how long the model is expected to take from a request's dispatch to
    its last token, NaN where nobody knows; None: of no model.
    """

    success: FloatArray
    cost_usd: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    success_std: FloatArray | None = None
    cost_std_usd: FloatArray | None = None
    success_samples: FloatArray | None = None
    errors: Mapping[int, ApportionError] = field(default_factory=dict)
    guessed: frozenset[int] = frozenset()
    calibrated_success: FloatArray | None = None
    refusals: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    uncorrected_usd: FloatArray | None = None
    read_tokens: FloatArray | None = None
    seconds: FloatArray | None = None

    def readable(self) -> BoolArray:
        """(N, M): False where a model cannot read the request."""
        readable = np.ones(self.success.shape, dtype=bool)
        for row, refusals in self.refusals.items():
            readable[row, list(refusals)] = False
        return readable

    @property
    def expected_input(self) -> FloatArray:
        """(N, M) tokens of the prompts as they are expected to be counted, where `input_tokens` are the most."""
        return self.input_tokens if self.read_tokens is None else self.read_tokens

    def corrected(
        self,
        prices: Sequence[ModelPrice],
        ratios: FloatArray,
        most_tokens: FloatArray,
        read: FloatArray | None = None,
        least_tokens: FloatArray | None = None,
    ) -> Estimates:
        """The estimates with costs of answers as long as they have turned out to be.

        Args:
            ratios: (M,), how long answers are of what was expected.
            most_tokens: (N, M), that all answers to a request can have together.
            read: (M,), how long prompts are of what was counted; None: as long.
            least_tokens: (N, 1), that all answers have together, as far as they fit; None: any.
        """
        std_usd = np.zeros_like(self.cost_usd) if self.cost_std_usd is None else self.cost_std_usd
        cost_usd, std_usd = corrected_cost(
            self.cost_usd, std_usd, self.input_tokens, prices, ratios, most_tokens, read, least_tokens
        )
        return replace(
            self,
            cost_usd=cost_usd,
            cost_std_usd=None if self.cost_std_usd is None else std_usd,
            uncorrected_usd=self.cost_usd,
            read_tokens=None if read is None else self.input_tokens * read,
        )

    def before_lift(self) -> FloatArray:
        """(N, M) calibrated success of every model, the incumbent's not lifted."""
        return self.success if self.calibrated_success is None else self.calibrated_success

    @property
    def predicted(self) -> BoolArray:
        """(N,) whether a predictor was there for the request."""
        return np.array([row not in self.guessed for row in range(len(self))], dtype=bool)

    def counted_tokens(self, row: int, column: int) -> float:
        """Tokens of the request's prompt; 0 where nobody has counted them."""
        return 0.0 if row in self.guessed else float(self.input_tokens[row, column])

    def __len__(self) -> int:
        return len(self.success)

    def rows(self, indices: Sequence[int] | IntArray) -> Estimates:
        """The estimates of some requests, in the given order."""
        rows = np.asarray(indices, dtype=np.int64)
        samples = self.success_samples
        return replace(
            self,
            **{name: array[rows] for name, array in self._tables().items()},
            success_samples=None if samples is None else samples[:, rows],
            errors=chosen(self.errors, rows),
            refusals=chosen(self.refusals, rows),
            guessed=frozenset(new for new, old in enumerate(rows.tolist()) if old in self.guessed),
        )

    def best_of(self, engine_of: IntArray) -> Estimates:
        """The estimates with a column for each model: of its variants the likeliest, of several such the cheapest.

        Args:
            engine_of: (M,), the model of each column.
        """
        success = np.where(self.readable(), self.success, -1.0)
        by_cost = np.argsort(self.cost_usd, axis=1, kind="stable")
        ranked = np.take_along_axis(success, by_cost, axis=1)
        best = [
            np.where(engine_of[by_cost] == engine, ranked, -np.inf).argmax(axis=1)
            for engine in range(int(engine_of.max()) + 1)
        ]
        column = np.take_along_axis(by_cost, np.stack(best, axis=1), axis=1)
        samples = self.success_samples
        tables: dict[str, Any] = {n: np.take_along_axis(array, column, axis=1) for n, array in self._tables().items()}
        return replace(
            self,
            **tables,
            success_samples=None if samples is None else np.take_along_axis(samples, column[None], axis=2),
            refusals={
                row: {engine: why[j] for engine, j in enumerate(column[row].tolist()) if j in why}
                for row, why in self.refusals.items()
            },
        )

    def at_quantile(self, quantile: float) -> Estimates:
        """Success replaced by a lower quantile of its estimate, from the members or else from the spread.

        For entry-wise intervals this is the max-min plan (arXiv 2603.26796, quantile variant), as x >= 0.

        Raises:
            InvalidRequestError: neither is known, or the quantile lies outside (0, 1).
        """
        if not 0 < quantile < 1:
            raise InvalidRequestError(f"quantile: {quantile} is out of range; give a number between 0 and 1")
        if self.success_samples is not None:
            lower = np.quantile(self.success_samples, quantile, axis=0)
        elif self.success_std is not None:
            lower = np.clip(self.success + NormalDist().inv_cdf(quantile) * self.success_std, 0.0, 1.0)
        else:
            raise InvalidRequestError(
                "quantile: needs predicted success with its spread; score the workload with a predictor"
            )
        return replace(self, success=np.asarray(lower, np.float64))

    def problem(
        self,
        slots: IntArray,
        budget_usd: float = float("inf"),
        *,
        allowed: BoolArray | None = None,
        sequences: IntArray | None = None,
        weight: FloatArray | None = None,
        penalty: FloatArray | None = None,
        row_of_column: IntArray | None = None,
        limits: tuple[Limit, ...] = (),
        with_samples: bool = True,
    ) -> BatchProblem:
        """The assignment of these requests to models under limits; the arguments are those of `BatchProblem`."""
        if self.refusals:
            allowed = self.readable() if allowed is None else allowed & self.readable()
        return BatchProblem(
            success=self.success,
            cost_usd=self.cost_usd,
            slots=slots,
            budget_usd=budget_usd,
            allowed=allowed,
            sequences=sequences,
            weight=weight,
            row_of_column=row_of_column,
            success_std=self.success_std,
            success_samples=self.success_samples if with_samples else None,
            cost_std_usd=self.cost_std_usd,
            penalty=penalty,
            limits=limits,
        )

    def _tables(self) -> dict[str, Any]:
        """The arrays of shape (N, M) that are known, by name."""
        found = {name: getattr(self, name) for name in _TABLES}
        return {name: array for name, array in found.items() if array is not None}


def unreadable(reasons: Mapping[str, str], param: str | None = "messages") -> InvalidRequestError:
    """The error of a request that none of the models that it may go to can read, or do what it asks for.

    Args:
        reasons: by model.
        param: the request's field that asks for it.
    """
    return InvalidRequestError(f"no model can answer this request; {told(reasons)}", param=param)


def told(reasons: Mapping[str, str]) -> str:
    """Reasons with the models that have them."""
    by_reason: dict[str, list[str]] = {}
    for model, reason in reasons.items():
        by_reason.setdefault(reason, []).append(model)
    return "; ".join(f"{', '.join(models)}: {reason}" for reason, models in by_reason.items())


def chosen(by_row: Mapping[int, Any], rows: IntArray) -> dict[int, Any]:
    """What there is of some rows, by their places among these."""
    return {new: by_row[old] for new, old in enumerate(rows.tolist()) if old in by_row}
