"""What is expected of requests, whatever a token costs: it is made in one place and priced in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import IntArray
from apportion.router.costs import cost_of_tokens
from apportion.router.errors import ApportionError, UnavailableError
from apportion.router.estimates import Estimates, chosen
from apportion.router.prices import ModelPrice

LAYERS = ("success", "success_std", "input_tokens", "output_tokens", "answered_tokens", "answered_tokens_std")
_INPUT = LAYERS.index("input_tokens")


@dataclass(frozen=True, eq=False)
class Unpriced:
    """What is expected of N requests on M models; all that is known of a prompt where its text is not.

    Args:
        models: names, the columns of every array.
        table: (6, N, M), one layer for each of `LAYERS`: success and its spread, tokens of the prompt, the expected
            length of one answer, and mean and standard deviation of the tokens of all answers together, cut off where
            the request or the context ends them.
        calibrated_success: (N, M), as of `Estimates`; None: nothing was lifted, or nobody asks for it.
        success_samples: (B, N, M), as of `Estimates`; None: nobody asks for them.
        errors: rows that could not be read.
        refusals: by row and column why a model cannot read a request that others can.
        guessed: rows that no predictor was asked for, or answered.
    """

    models: tuple[str, ...]
    table: NDArray[np.floating]
    calibrated_success: NDArray[np.floating] | None = None
    success_samples: NDArray[np.floating] | None = None
    errors: Mapping[int, ApportionError] = field(default_factory=dict)
    refusals: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    guessed: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return int(self.table.shape[1])

    def layer(self, name: str) -> NDArray[np.floating]:
        """(N, M): one of `LAYERS`."""
        return np.asarray(self.table[LAYERS.index(name)])

    def check(self, models: Sequence[str], n_requests: int) -> None:
        """Raises: ValueError: it is of other models or another number of requests, or holds a number that is none."""
        if self.models != tuple(models) or self.table.shape != (len(LAYERS), n_requests, len(models)):
            raise ValueError(f"nobody asked for a forecast of shape {self.table.shape} of {len(self.models)} models")
        if not np.isfinite(self.table).all():
            raise ValueError("a forecast holds a value that is not finite")

    def priced(self, prices: Sequence[ModelPrice]) -> Estimates:
        """The estimates at these prices, in the order of the models."""
        success, std, counts, output, answered, answered_std = self.table.astype(np.float64)
        cost_usd, cost_std_usd = cost_of_tokens(counts, answered, answered_std, prices)
        lifted, samples = self.calibrated_success, self.success_samples
        return Estimates(
            success=success,
            success_std=std,
            success_samples=None if samples is None else samples.astype(np.float64),
            cost_usd=cost_usd,
            cost_std_usd=cost_std_usd,
            input_tokens=counts,
            output_tokens=output,
            errors=self.errors,
            refusals=self.refusals,
            guessed=self.guessed,
            calibrated_success=None if lifted is None else lifted.astype(np.float64),
        )

    def rows(self, indices: Sequence[int] | IntArray) -> Unpriced:
        """The forecast of some requests, in the given order."""
        rows = np.asarray(indices, dtype=np.int64)
        lifted, samples = self.calibrated_success, self.success_samples
        return replace(
            self,
            table=self.table[:, rows],
            calibrated_success=None if lifted is None else lifted[rows],
            success_samples=None if samples is None else samples[:, rows],
            errors=chosen(self.errors, rows) if self.errors else {},
            refusals=chosen(self.refusals, rows) if self.refusals else {},
            guessed=frozenset(new for new, old in enumerate(rows.tolist()) if old in self.guessed),
        )

    def with_input(self, tokens: IntArray) -> Unpriced:
        """The forecast of prompts that are longer by so many tokens, (N, M)."""
        table = self.table.copy()
        table[_INPUT] += tokens
        return replace(self, table=table)

    def brief(self, *, samples: bool) -> Unpriced:
        """What planning needs of it, and what is compared with what callers say of answers, in half the bytes.

        Args:
            samples: whether that is what each member of the ensemble says, too.
        """
        members, lifted = self.success_samples if samples else None, self.calibrated_success
        return replace(
            self,
            table=self.table.astype(np.float32),
            calibrated_success=None if lifted is None else lifted.astype(np.float32),
            success_samples=None if members is None else members.astype(np.float32),
        )

    def of_models(self, models: tuple[str, ...]) -> Unpriced:
        """The forecast with a column for each of these models.

        While a deploy changes the models, those who forecast and those who plan may know different ones: a model that
        is new here answers none of these requests.
        """
        if models == self.models:
            return self
        known = [column for column, model in enumerate(models) if model in self.models]
        own = [self.models.index(models[column]) for column in known]
        new = [column for column, model in enumerate(models) if model not in self.models]

        def widened(array: NDArray[np.floating]) -> NDArray[np.floating]:
            wide = np.zeros((*array.shape[:-1], len(models)), dtype=array.dtype)
            wide[..., known] = array[..., own]
            return wide

        lifted, samples = self.calibrated_success, self.success_samples
        places = dict(zip(own, known, strict=True))
        refusals = {
            row: {places[column]: why for column, why in self.refusals.get(row, {}).items() if column in places}
            | dict.fromkeys(new, "is being deployed; try again in some seconds")
            for row in range(len(self))
            if new or row in self.refusals
        }
        away = UnavailableError("the service is being deployed; try again in some seconds", retry_after_s=5.0)
        return replace(
            self,
            models=models,
            table=widened(self.table),
            calibrated_success=None if lifted is None else widened(lifted),
            success_samples=None if samples is None else widened(samples),
            errors=self.errors if known else dict.fromkeys(range(len(self)), away),
            refusals=refusals if known else {},
        )


def gathered(rows: Sequence[tuple[Unpriced, int]]) -> Unpriced:
    """Rows of several forecasts of the same models, in their order, as one."""
    tables: dict[int, tuple[Unpriced, list[int], list[int]]] = {}  # by identity, with old and new rows
    for place, (table, row) in enumerate(rows):
        _, old, new = tables.setdefault(id(table), (table, [], []))
        old.append(row)
        new.append(place)
    together = concatenate([table.rows(old) for table, old, _ in tables.values()])
    if len(tables) == 1:
        return together
    return together.rows(np.argsort([place for _, _, new in tables.values() for place in new]))


def concatenate(parts: Sequence[Unpriced]) -> Unpriced:
    """Puts forecasts of the same models one after the other; samples survive only where every part has them."""
    first = parts[0]
    if len(parts) == 1:
        return first
    starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    placed = list(zip(starts, parts, strict=False))
    samples = [part.success_samples for part in parts if part.success_samples is not None]
    same_ensemble = len(samples) == len(parts) and len({len(sample) for sample in samples}) == 1
    lifted = any(part.calibrated_success is not None for part in parts)
    return Unpriced(
        models=first.models,
        table=np.concatenate([part.table for part in parts], axis=1),
        calibrated_success=np.concatenate([_before_lift(part) for part in parts]) if lifted else None,
        success_samples=np.concatenate(samples, axis=1) if same_ensemble else None,
        errors={start + row: error for start, part in placed for row, error in part.errors.items()},
        refusals={start + row: refused for start, part in placed for row, refused in part.refusals.items()},
        guessed=frozenset(start + row for start, part in placed for row in part.guessed),
    )


def _before_lift(forecast: Unpriced) -> NDArray[np.floating]:
    return forecast.layer("success") if forecast.calibrated_success is None else forecast.calibrated_success
