"""The outcomes table: what every model made of every past request."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.errors import OutcomesTableError
from apportion.router.prices import ModelPrice, price_arrays
from apportion.router.signals import SIGNALS, wrong_signals
from apportion.router.traits import PLAIN, Traits

QUERY_COLUMNS = ("query_id", "task", "prompt")
GROUP = "group"
"""Column of `queries`, where it is there: rows of one group are never parted by a split."""

FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of the rows that train, calibrate, and test."""

TRAIT_COLUMNS = tuple(f"request_{name}" for name in Traits._fields)
"""Columns of `queries`, where a request is more than a plain prompt: its traits, as whole numbers."""

_VALUES = ("scores", "input_tokens", "output_tokens", "cost_usd")


@dataclass(frozen=True)
class OutcomesTable:
    """Scores, tokens and costs of N requests on M models; NaN where an outcome is unknown.

    `queries` has N rows with the text columns query_id (unique), task and prompt, optionally group, and optionally the
    `TRAIT_COLUMNS`. The four arrays have shape `(n_requests, n_models)`, columns in the order of `models`: `scores`
    in [0, 1], `input_tokens`, `output_tokens`, and `cost_usd`. `prices` maps a model to its list price, where known.
    `signals`, where anybody asked for them, are `(n_requests, n_models, 4)` in the order of `SIGNALS`; an answer has
    all four or, as NaN, none. Raises OutcomesTableError, naming row, column and mend, when any of this does not hold.
    """

    queries: pd.DataFrame
    models: tuple[str, ...]
    scores: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    cost_usd: FloatArray
    prices: Mapping[str, ModelPrice] = field(default_factory=dict)
    signals: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "prices", MappingProxyType(dict(self.prices)))
        _check_queries(self.queries)
        _check_models(self.models, self.prices)
        for name in _VALUES:
            values = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, values)
            self._check_values(name, values)
        if self.signals is not None:
            object.__setattr__(self, "signals", np.asarray(self.signals, dtype=np.float64))
            self._check_signals(self.signals)

    def __len__(self) -> int:
        return len(self.queries)

    def __reduce__(self) -> tuple[object, ...]:
        arrays = tuple(getattr(self, name) for name in _VALUES)
        return (OutcomesTable, (self.queries, self.models, *arrays, dict(self.prices), self.signals))

    @property
    def prompts(self) -> list[str]:
        """The N prompts."""
        return self.queries["prompt"].tolist()

    @property
    def traits(self) -> list[Traits]:
        """What the N requests are beside their prompts."""
        counts = [
            self.queries[column].tolist() if column in self.queries else [plain] * len(self)
            for column, plain in zip(TRAIT_COLUMNS, PLAIN, strict=True)
        ]
        return [Traits(*row) for row in zip(*counts, strict=True)]

    @property
    def tasks(self) -> NDArray[np.str_]:
        """The task of every request, shape `(n_requests,)`."""
        return self.queries["task"].to_numpy(dtype=str)

    def subset(self, rows: ArrayLike) -> OutcomesTable:
        """The table of these rows (indices or a mask of shape `(n_requests,)`), in the given order."""
        index = np.arange(len(self))[np.asarray(rows)]
        arrays = {name: getattr(self, name)[index] for name in self._arrays}
        return replace(self, queries=self.queries.iloc[index].reset_index(drop=True), **arrays)

    def select_models(self, models: Sequence[str]) -> OutcomesTable:
        """The table of these models, in the given order; raises OutcomesTableError for one it does not
        hold.
        """
        unknown = sorted(set(models) - set(self.models))
        if unknown:
            raise OutcomesTableError(f"no outcomes of {unknown}: the table holds {list(self.models)}")
        columns = [self.models.index(model) for model in models]
        arrays = {name: getattr(self, name)[:, columns] for name in self._arrays}
        prices = {model: price for model, price in self.prices.items() if model in models}
        return replace(self, models=tuple(models), prices=prices, **arrays)

    @property
    def groups(self) -> IntArray:
        """(N,) numbers, equal for rows that no split parts: those of one group, or else of one prompt."""
        return pd.factorize(self.queries[GROUP])[0] if GROUP in self.queries else self.prompt_groups

    @property
    def prompt_groups(self) -> IntArray:
        """(N,) numbers, equal for rows of one prompt, whatever its case and white space."""
        return pd.factorize(self.queries["prompt"].map(_normalised))[0]

    def split_rows(self, seed: int, fractions: Sequence[float] = FRACTIONS) -> tuple[IntArray, IntArray, IntArray]:
        """Row numbers of a random split into train, validation and test by the given shares, which sum to one.

        Rows are drawn one by one; then those of a group follow the group's first row, so that the shares hold on
        average, and a table without groups of several rows is split as if there were none.
        """
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
            raise OutcomesTableError(f"split fractions {tuple(fractions)}: give three shares that sum to 1")
        order = np.random.default_rng(seed).permutation(len(self))
        bounds = np.round(np.cumsum(fractions)[:2] * len(self)).astype(int)
        part = np.empty(len(self), dtype=np.int64)
        part[order] = np.searchsorted(bounds, np.arange(len(self)), side="right")
        _, first, member = np.unique(self.groups, return_index=True, return_inverse=True)
        part = part[first[member]]
        train, validation, test = (order[part[order] == number] for number in range(3))
        return train, validation, test

    def split(
        self, seed: int, fractions: Sequence[float] = FRACTIONS
    ) -> tuple[OutcomesTable, OutcomesTable, OutcomesTable]:
        """The tables of `split_rows`."""
        train, validation, test = self.split_rows(seed, fractions)
        return self.subset(train), self.subset(validation), self.subset(test)

    def require_scores(self) -> None:
        """Raise OutcomesTableError when a model has not a single score."""
        seen = np.atleast_1d(np.isfinite(self.scores).any(axis=0))
        unseen = [model for model, any_score in zip(self.models, seen, strict=True) if not any_score]
        if unseen:
            raise OutcomesTableError(f"no score of {unseen} in these rows: add outcomes or drop the models")

    def price_list(self) -> tuple[ModelPrice, ...]:
        """Prices in the order of `models`; raises OutcomesTableError when one is missing."""
        missing = [model for model in self.models if model not in self.prices]
        if missing:
            raise OutcomesTableError(
                f"no price for {missing}: add rows to models.csv (model, input_price_per_1M, "
                "output_price_per_1M) "
                "or pass prices"
            )
        return tuple(self.prices[model] for model in self.models)

    def with_counted_tokens(self, input_tokens: ArrayLike) -> OutcomesTable:
        """Fill in what token counts, costs and prices say about each other.

        Unknown input tokens become the given counts, `(n_requests,)` or `(n_requests, n_models)`; unknown
        output tokens become what is left of the recorded cost at list price (at least one token); unknown
        costs become tokens times price. What the table holds stays as it is. Raises OutcomesTableError for
        a missing price.
        """
        counted = np.asarray(input_tokens, dtype=np.float64)
        counted = np.broadcast_to(counted[:, None] if counted.ndim == 1 else counted, self.scores.shape)
        filled = np.where(np.isnan(self.input_tokens), counted, self.input_tokens)
        usd_per_input, usd_per_output = price_arrays(self.price_list())
        with np.errstate(divide="ignore", invalid="ignore"):
            derived = np.maximum(1.0, (self.cost_usd - filled * usd_per_input) / usd_per_output)
        derived = np.where(np.isfinite(derived), derived, np.nan)
        output = np.where(np.isnan(self.output_tokens), derived, self.output_tokens)
        listed = filled * usd_per_input + output * usd_per_output
        cost_usd = np.where(np.isnan(self.cost_usd), listed, self.cost_usd)
        return replace(self, input_tokens=filled, output_tokens=output, cost_usd=cost_usd)

    def data_hash(self) -> str:
        """SHA-256 over models, queries and outcomes, as hexadecimal digits; signals beside them change nothing."""
        digest = hashlib.sha256("\x1f".join(self.models).encode())
        for column in QUERY_COLUMNS:
            digest.update("\x1e".join(self.queries[column]).encode())
        if any(traits != PLAIN for traits in self.traits):
            digest.update(np.array(self.traits, dtype="<i8").tobytes())
        for name in _VALUES:
            digest.update(np.ascontiguousarray(getattr(self, name), dtype="<f8").tobytes())
        return digest.hexdigest()

    @property
    def _arrays(self) -> tuple[str, ...]:
        """Names of what has a row a request and a column a model."""
        return _VALUES if self.signals is None else (*_VALUES, "signals")

    def _check_signals(self, signals: FloatArray) -> None:
        expected = (len(self.queries), len(self.models), len(SIGNALS))
        if signals.shape != expected:
            raise OutcomesTableError(
                f"signals has shape {signals.shape}, expected {expected}: per query and model {', '.join(SIGNALS)}"
            )
        bad = np.argwhere(wrong_signals(signals))
        if len(bad):
            row, column = bad[0]
            raise OutcomesTableError(
                f"signals, row {row} (query_id {self.queries['query_id'].iloc[row]!r}), column {self.models[column]!r} "
                f"is {signals[row, column].tolist()}: give {', '.join(SIGNALS)}, log-probabilities not above 0 with "
                "the least one below the others and a margin not below 0, or none of the four"
            )

    def _check_values(self, name: str, values: FloatArray) -> None:
        expected = (len(self.queries), len(self.models))
        if values.shape != expected:
            raise OutcomesTableError(
                f"{name} has shape {values.shape}, expected {expected}: one row per query, one column per model"
            )
        at_most = 1.0 if name == "scores" else np.inf
        bad = np.argwhere((values < 0) | (values > at_most) | np.isinf(values))
        if len(bad):
            row, column = bad[0]
            limit = "between 0 and 1" if name == "scores" else "finite and not negative"
            raise OutcomesTableError(
                f"{name}, row {row} (query_id {self.queries['query_id'].iloc[row]!r}), column "
                f"{self.models[column]!r} is {values[row, column]}: it must be {limit}; leave it empty "
                "if unknown." + (f" {len(bad) - 1} more cells are wrong." if len(bad) > 1 else "")
            )


def _check_queries(queries: pd.DataFrame) -> None:
    missing = [column for column in QUERY_COLUMNS if column not in queries]
    if missing:
        raise OutcomesTableError(f"queries lacks the columns {missing}; it has {list(queries.columns)}")
    for column in (*QUERY_COLUMNS, *([GROUP] if GROUP in queries else [])):
        is_text = queries[column].map(partial(_is_instance, kind=str))
        if not is_text.all():
            row = int(np.argmin(is_text.to_numpy()))
            raise OutcomesTableError(
                f"queries, row {row}, column {column!r} is {queries[column].iloc[row]!r}: give a text"
            )
    for column in set(TRAIT_COLUMNS) & set(queries):
        counts = queries[column]
        if not (pd.api.types.is_integer_dtype(counts) and (counts >= 0).all()):
            raise OutcomesTableError(f"queries, column {column!r}: give whole numbers from 0")
    repeated = queries["query_id"].duplicated()
    if repeated.any():
        row = int(np.argmax(repeated.to_numpy()))
        raise OutcomesTableError(
            f"queries, row {row}, column 'query_id': {queries['query_id'].iloc[row]!r} occurs more than "
            "once; "
            "give every query an id of its own"
        )


def _is_instance(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _check_models(models: Sequence[str], prices: Mapping[str, ModelPrice]) -> None:
    if not models or len(set(models)) != len(models):
        raise OutcomesTableError(f"models {list(models)}: name at least one model, each once")
    stray = sorted(set(prices) - set(models))
    if stray:
        raise OutcomesTableError(f"prices of models that have no outcomes: {stray}; remove them")


def _normalised(prompt: str) -> str:
    return " ".join(unicodedata.normalize("NFC", prompt).casefold().split())
