"""Outcomes tables on disk: a folder of parquet files, or one long file with a row per (query, model).

Folder: queries.parquet (query_id, prompt or messages, optional task and prompt_tokens), scores.parquet, and optionally
costs.parquet, input_tokens.parquet, output_tokens.parquet and cached_tokens.parquet (query_id and one column per model
each), signals.parquet (query_id, model, mean_logprob, min_logprob, low_logprob, mean_margin), models.csv (model,
input_price_per_1M, output_price_per_1M). Long file: query_id, prompt or messages, model, score and optionally task,
input_tokens, output_tokens, cached_tokens, cost_usd, the four signals, input_price_per_1M, output_price_per_1M. Both
may have a cached_input_price_per_1M beside the prices.
"""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.columns import MOST_TOKENS, check_same_ids, numbers, require, row_of, texts
from apportion.router.outcomes.long import (
    CACHED_PRICE,
    PRICE_COLUMNS,
    SUFFIXES,
    costs_from_tokens,
    line_of,
    price_of_columns,
    read_csv,
    read_long,
)
from apportion.router.outcomes.requests import requests
from apportion.router.outcomes.signals import SIGNALS_FILE, read_signals, write_signals
from apportion.router.outcomes.table import GROUP, QUERY_COLUMNS, TRAIT_COLUMNS, OutcomesTable
from apportion.router.prices import ModelPrice


def read_outcomes(source: str | Path, group: str | None = None) -> OutcomesTable:
    """Read a folder or a long file.

    Args:
        group: column (of the long file, or of queries.parquet) whose equal values mark queries that no split parts;
            None: queries with the same prompt stay together.

    Raises:
        OutcomesTableError: there is nothing to read, or it is wrong; names file, line or row, column and mend.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, group)
    if not path.exists():
        raise OutcomesTableError(f"no outcomes at {path}: give a folder of parquet files or one long file")
    if path.suffix not in SUFFIXES:
        raise OutcomesTableError(f"{path.name}: give a folder or a file ending in {', '.join(SUFFIXES)}")
    return read_long(path, group)


def write_outcomes(table: OutcomesTable, target: str | Path) -> None:
    """Write the folder that `read_outcomes` reads; an existing folder's files of the same names are replaced."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    queries = table.queries[[column for column in (*QUERY_COLUMNS, GROUP, *TRAIT_COLUMNS) if column in table.queries]]
    queries.to_parquet(folder / "queries.parquet", index=False)
    arrays = {
        "scores": table.scores,
        "costs": table.cost_usd,
        "input_tokens": table.input_tokens,
        "output_tokens": table.output_tokens,
    }
    for name, values in arrays.items():
        frame = pd.DataFrame(values, columns=list(table.models))
        frame.insert(0, "query_id", queries["query_id"].to_numpy())
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    write_signals(table, folder / SIGNALS_FILE)
    rows = [(model, *astuple(price)) for model, price in table.prices.items()]
    pd.DataFrame(rows, columns=["model", *PRICE_COLUMNS, CACHED_PRICE]).to_csv(folder / "models.csv", index=False)


def _read_folder(folder: Path, group: str | None) -> OutcomesTable:
    queries = _queries(folder / "queries.parquet", group)
    ids = queries["query_id"]
    scores = _parquet(folder / "scores.parquet")
    require(scores, ("query_id",), "scores.parquet")
    models = tuple(str(column) for column in scores.columns if column != "query_id")
    prices = _read_prices(folder / "models.csv", models)
    tokens = [
        _wide(folder / f"{kind}_tokens.parquet", ids, models, required=False, at_most=MOST_TOKENS)
        for kind in ("input", "output", "cached")
    ]
    if np.isnan(tokens[0]).all() and "prompt_tokens" in queries:
        tokens[0] = np.repeat(queries["prompt_tokens"].to_numpy()[:, None], len(models), axis=1)
    cost_usd = _wide(folder / "costs.parquet", ids, models, required=False)
    return OutcomesTable(
        queries=queries[[column for column in (*QUERY_COLUMNS, GROUP, *TRAIT_COLUMNS) if column in queries]],
        models=models,
        scores=_wide(folder / "scores.parquet", ids, models, required=True, at_most=1.0),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cost_usd=costs_from_tokens(cost_usd, tokens, models, prices),
        prices=prices,
        signals=read_signals(folder / SIGNALS_FILE, ids, models),
    )


def _queries(file: Path, group: str | None) -> pd.DataFrame:
    frame = _parquet(file)
    asked = "messages" if "messages" in frame and "prompt" not in frame else "prompt"
    require(frame, ("query_id", asked, *([] if group is None else [group])), file.name)
    at = row_of(file.name)
    columns: dict[str, object] = {
        "query_id": texts(frame["query_id"], "query_id", at),
        "task": texts(frame["task"], "task", at, empty="") if "task" in frame else "",
        **requests(frame, at),
    }
    if group is not None:
        columns[GROUP] = texts(frame[group], group, at)
    if "prompt_tokens" in frame:
        columns["prompt_tokens"] = numbers(frame, "prompt_tokens", at)
    found = pd.DataFrame(columns)
    check_same_ids(found["query_id"].tolist(), found["prompt"].tolist(), file.name)
    return found


def _parquet(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise OutcomesTableError(f"{path.parent} has no {path.name}: see docs/prediction.md for the format")
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise OutcomesTableError(f"{path} cannot be read as parquet: {error}") from error


def _wide(
    path: Path, ids: pd.Series, models: tuple[str, ...], *, required: bool, at_most: float = np.inf
) -> FloatArray:
    """Values of `path` by query and model, NaN where the file or a row is absent."""
    if not required and not path.exists():
        return np.full((len(ids), len(models)), np.nan)
    frame = _parquet(path)
    require(frame, ("query_id", *models), path.name)
    at = row_of(path.name)
    known = pd.Index(texts(frame["query_id"], "query_id", at))
    if known.has_duplicates:
        twice = known[known.duplicated()][0]
        raise OutcomesTableError(f"{path.name}, column 'query_id': {twice!r} occurs twice; keep one row")
    stray = known.difference(pd.Index(ids))
    if len(stray):
        raise OutcomesTableError(
            f"{path.name}, column 'query_id': {stray[0]!r} is not in queries.parquet; add it or drop the row"
        )
    columns = {model: numbers(frame, model, at, at_most) for model in models}
    return pd.DataFrame(columns, index=known).reindex(ids).to_numpy(dtype=np.float64)


def _read_prices(path: Path, models: tuple[str, ...]) -> dict[str, ModelPrice]:
    """List prices of the models that have them."""
    if not path.exists():
        return {}
    frame = read_csv(path)
    require(frame, ("model", *PRICE_COLUMNS), path.name)

    def at(row: int) -> str:
        return f"{path.name}, {line_of(path, row)}"

    twice = frame["model"].duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise OutcomesTableError(f"{at(row)}, column 'model': {frame['model'].iloc[row]!r} stands twice; keep one")
    columns = [numbers(frame, column, at) for column in (*PRICE_COLUMNS, CACHED_PRICE)]
    return {
        model: price_of_columns(*usd)
        for model, *usd in zip(frame["model"], *columns, strict=True)
        if model in models and not np.isnan(usd[:2]).any()
    }
