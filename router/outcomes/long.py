"""One long file with a row per query and model: CSV, JSON lines or parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.chat import flattened
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.columns import (
    MOST_TOKENS,
    UNKNOWN,
    Place,
    check_same_ids,
    numbers,
    require,
    row_of,
    texts,
)
from apportion.router.outcomes.requests import requests
from apportion.router.outcomes.signals import signal_columns, signals_by_answer
from apportion.router.outcomes.table import GROUP, QUERY_COLUMNS, TRAIT_COLUMNS, OutcomesTable
from apportion.router.prices import ModelPrice, cache_savings, price_arrays
from apportion.router.signals import SIGNALS
from apportion.router.texts import numbered_objects, read_text

SUFFIXES = (".csv", ".jsonl", ".parquet")
PRICE_COLUMNS = ("input_price_per_1M", "output_price_per_1M")
CACHED_PRICE = "cached_input_price_per_1M"
_TEXTS = ("query_id", "prompt", "messages", "model", "task")
_NUMBERS = ("input_tokens", "output_tokens", "cached_tokens", "cost_usd")


def read_long(path: Path, group: str | None = None) -> OutcomesTable:
    """The table of a long file; a pair that is absent is unknown (NaN).

    Args:
        group: the column whose equal values mark queries that are never split.

    Raises:
        OutcomesTableError: the file cannot be read, or a cell is wrong; names its place, column and mend.
    """
    try:
        if path.suffix == ".jsonl":
            rows = numbered_objects(path, OutcomesTableError)
            lines = [number for number, _ in rows]
            frame = pd.DataFrame([dict(flattened(row)) for _, row in rows], dtype=object)
            return _table(frame, path.name, lambda row: f"{path.name}, line {lines[row]}", group)
        if path.suffix == ".csv":
            frame = read_csv(path, group)
            return _table(frame, path.name, lambda row: f"{path.name}, {line_of(path, row)}", group)
        return _table(pd.read_parquet(path), path.name, row_of(path.name), group)
    except (ValueError, OSError) as error:
        raise OutcomesTableError(f"{path.name} cannot be read as {path.suffix[1:]}: {error}") from error


def read_csv(path: Path, group: str | None = None) -> pd.DataFrame:
    """A CSV's frame with texts as they are written: left alone, pandas takes "NA" for empty and "01" for 1."""
    written = (*_TEXTS, *([] if group is None else [group]))
    empty = {column: [""] for column in written} | dict.fromkeys(
        ("score", *_NUMBERS, *SIGNALS, *PRICE_COLUMNS, CACHED_PRICE, *TRAIT_COLUMNS), UNKNOWN
    )
    text = read_text(path, OutcomesTableError)
    header = next(csv.reader(io.StringIO(text)), [])
    separator = next((one for one in (";", "\t", "|") if len(header) == 1 and one in header[0]), None)
    if separator is not None:
        raise OutcomesTableError(f"{path.name}, line 1: columns are parted by {separator!r}; save it with commas")
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise OutcomesTableError(f"{path.name} has the column {twice[0]!r} more than once; keep one")
    kinds = dict.fromkeys(written, str)
    return pd.read_csv(io.StringIO(text, newline=""), dtype=kinds, keep_default_na=False, na_values=empty)


def costs_from_tokens(
    cost_usd: FloatArray,
    tokens: Sequence[FloatArray],
    models: tuple[str, ...],
    prices: dict[str, ModelPrice],
) -> FloatArray:
    """Recorded costs, with tokens x list price where no cost was recorded.

    Args:
        tokens: of input, of output, and of the input what came from a prefix cache (unknown: nothing did).
    """
    if not np.isnan(cost_usd).any() or len(prices) < len(models):
        return cost_usd
    listed = [prices[model] for model in models]
    usd_per_input, usd_per_output = price_arrays(listed)
    input_tokens, output_tokens, cached = tokens[0], tokens[1], np.nan_to_num(tokens[2])
    derived = input_tokens * usd_per_input - cached * cache_savings(listed) + output_tokens * usd_per_output
    return np.where(np.isnan(cost_usd), derived, cost_usd)


def line_of(path: Path, row: int) -> str:
    """Where a row of a CSV begins: a quoted cell may hold line breaks, and blank lines are no rows."""
    reader, begins = csv.reader(io.StringIO(read_text(path), newline="")), 1
    records = -1  # the first is the header
    try:
        for cells in reader:
            if cells and records == row:
                break
            records += bool(cells)
            begins = reader.line_num + 1
    except csv.Error:  # a cell that is longer than this reader takes
        return f"row {row} (counted from 0)"
    return f"line {begins}"


def _table(frame: pd.DataFrame, name: str, at: Place, group: str | None) -> OutcomesTable:
    if "messages" in frame and "prompt" not in frame:
        frame = frame.assign(prompt=None)
    require(frame, ("query_id", "prompt", "model", "score", *([] if group is None else [group])), name)
    written = {
        "query_id": texts(frame["query_id"], "query_id", at),
        "model": texts(frame["model"], "model", at),
        "task": texts(frame["task"], "task", at, empty="") if "task" in frame else [""] * len(frame),
        **requests(frame, at),
    }
    if group is not None:
        written[GROUP] = texts(frame[group], group, at)
    most = {column: MOST_TOKENS for column in _NUMBERS if column.endswith("_tokens")}
    counted = {column: numbers(frame, column, at, most.get(column, np.inf)) for column in _NUMBERS}
    cells = pd.DataFrame({**written, "score": numbers(frame, "score", at, at_most=1.0), **counted})
    _check_pairs(cells, at)
    columns = [column for column in (*QUERY_COLUMNS, GROUP, *TRAIT_COLUMNS) if column in written]
    queries = cells.drop_duplicates("query_id")[columns].reset_index(drop=True)
    check_same_ids(queries["query_id"].tolist(), queries["prompt"].tolist(), name)
    models = tuple(cells["model"].unique())
    rows = pd.Index(queries["query_id"]).get_indexer(cells["query_id"])
    models_at = pd.Index(models).get_indexer(cells["model"])
    arrays = {column: np.full((len(queries), len(models)), np.nan) for column in ("score", *_NUMBERS)}
    for column, values in arrays.items():
        values[rows, models_at] = cells[column]
    prices = _prices(frame, cells["model"], name, at)
    tokens = [arrays[column] for column in ("input_tokens", "output_tokens", "cached_tokens")]
    cost_usd = costs_from_tokens(arrays["cost_usd"], tokens, models, prices)
    signals = signals_by_answer(
        signal_columns(frame, at), cells["query_id"], cells["model"], queries["query_id"], models
    )
    return OutcomesTable(queries, models, arrays["score"], tokens[0], tokens[1], cost_usd, prices, signals)


def _prices(frame: pd.DataFrame, model: pd.Series, name: str, at: Place) -> dict[str, ModelPrice]:
    """List prices: a model's are what its rows say; rows that leave them empty do not matter."""
    if not any(column in frame for column in PRICE_COLUMNS):
        return {}
    require(frame, PRICE_COLUMNS, name)
    columns = (*PRICE_COLUMNS, CACHED_PRICE)
    given = pd.DataFrame({"model": model} | {column: numbers(frame, column, at) for column in columns})
    by_model = given.groupby("model", sort=False)[list(columns)]
    first = by_model.transform("first")
    for column in columns:
        differs = (given[column].notna() & (given[column] != first[column])).to_numpy()
        if differs.any():
            row = int(np.argmax(differs))
            raise OutcomesTableError(
                f"{at(row)}, column {column!r} is {given[column].iloc[row]}: give one price in all rows of model "
                f"{model.iloc[row]!r}"
            )
    listed = by_model.first().dropna(subset=list(PRICE_COLUMNS))
    return {str(model): price_of_columns(*row) for model, *row in listed.itertuples()}


def price_of_columns(input_usd: float, output_usd: float, cached_usd: float) -> ModelPrice:
    """A price as tables hold it: of input, of output, and of cached input, which may be NaN."""
    return ModelPrice(input_usd, output_usd, None if np.isnan(cached_usd) else cached_usd)


def _check_pairs(cells: pd.DataFrame, at: Place) -> None:
    repeated = cells.duplicated(["query_id", "model"]).to_numpy()
    if repeated.any():
        row = int(np.argmax(repeated))
        raise OutcomesTableError(
            f"{at(row)}: query_id {cells['query_id'].iloc[row]!r} with model {cells['model'].iloc[row]!r} occurs "
            "before; keep one row per query and model"
        )
    for column in ("prompt", "task", GROUP, *TRAIT_COLUMNS):
        if column in cells:
            differs = (cells.groupby("query_id")[column].transform("first") != cells[column]).to_numpy()
            if differs.any():
                row = int(np.argmax(differs))
                raise OutcomesTableError(
                    f"{at(row)}, column {column!r} differs from an earlier row of query_id "
                    f"{cells['query_id'].iloc[row]!r}; give different queries different ids"
                )
    more = (cells["cached_tokens"] > cells["input_tokens"]).to_numpy()
    if more.any():
        raise OutcomesTableError(
            f"{at(int(np.argmax(more)))}, column 'cached_tokens' is more than 'input_tokens', of which it is a part; "
            "correct one of them"
        )
