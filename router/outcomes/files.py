"""Outcomes tables on disk: a folder of parquet files, or one long file with a row per (query, model).

Folder: queries.parquet (query_id, prompt, optional task and prompt_tokens), scores.parquet, and optionally
costs.parquet, input_tokens.parquet and output_tokens.parquet (query_id and one column per model each),
models.csv (model, input_price_per_1M, output_price_per_1M). Long file: query_id, prompt, model, score and
optionally task, input_tokens, output_tokens, cost_usd, input_price_per_1M, output_price_per_1M.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import QUERY_COLUMNS, OutcomesTable
from apportion.router.prices import ModelPrice, price_arrays

_LONG_SUFFIXES = (".csv", ".jsonl", ".parquet")
_LONG_TEXTS = ("query_id", "prompt", "model", "task")
_LONG_NUMBERS = ("score", "input_tokens", "output_tokens", "cost_usd")
_PRICE_COLUMNS = ("input_price_per_1M", "output_price_per_1M")
_UNKNOWN = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>"]


def read_outcomes(source: str | Path) -> OutcomesTable:
    """Read a folder or a long file; raises OutcomesTableError naming file, row, column and mend."""
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise OutcomesTableError(f"no outcomes at {path}: give a folder of parquet files or one long file")
    if path.suffix not in _LONG_SUFFIXES:
        raise OutcomesTableError(f"{path.name}: give a folder or a file ending in {', '.join(_LONG_SUFFIXES)}")
    return table_from_long(_read_long(path), path.name)


def write_outcomes(table: OutcomesTable, target: str | Path) -> None:
    """Write the folder that `read_outcomes` reads; an existing folder's files of the same names are replaced."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    queries = table.queries[list(QUERY_COLUMNS)]
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
    rows = [(m, p.input_usd_per_million, p.output_usd_per_million) for m, p in table.prices.items()]
    pd.DataFrame(rows, columns=["model", *_PRICE_COLUMNS]).to_csv(folder / "models.csv", index=False)


def _read_folder(folder: Path) -> OutcomesTable:
    queries = _parquet(folder / "queries.parquet")
    _require(queries, ("query_id", "prompt"), "queries.parquet")
    scores = _parquet(folder / "scores.parquet")
    _require(scores, ("query_id",), "scores.parquet")
    models = tuple(str(column) for column in scores.columns if column != "query_id")
    ids = queries["query_id"].astype(str)
    if "task" not in queries:
        queries["task"] = ""
    prices = _read_prices(folder / "models.csv", models)
    input_tokens = _wide(folder / "input_tokens.parquet", ids, models, required=False)
    if np.isnan(input_tokens).all() and "prompt_tokens" in queries:
        counted = pd.to_numeric(queries["prompt_tokens"], errors="coerce").to_numpy(dtype=np.float64)
        input_tokens = np.repeat(counted[:, None], len(models), axis=1)
    output_tokens = _wide(folder / "output_tokens.parquet", ids, models, required=False)
    cost_usd = _wide(folder / "costs.parquet", ids, models, required=False)
    return OutcomesTable(
        queries=queries.assign(query_id=ids)[list(QUERY_COLUMNS)],
        models=models,
        scores=_wide(folder / "scores.parquet", ids, models, required=True),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=_costs_from_tokens(cost_usd, input_tokens, output_tokens, models, prices),
        prices=prices,
    )


def table_from_long(frame: pd.DataFrame, name: str = "table") -> OutcomesTable:
    """The table of a long frame (columns as in the module's text); a pair that is absent is unknown (NaN).

    A model's price is what its rows say; those that leave it empty do not matter.
    Raises OutcomesTableError naming row, column and mend.
    """
    _require(frame, ("query_id", "prompt", "model", "score"), name)
    if "task" not in frame:
        frame = frame.assign(task="")
    for column in _LONG_TEXTS:
        empty = frame[column].isna()
        if empty.any():
            row = int(np.argmax(empty.to_numpy()))
            raise OutcomesTableError(f"{name}, row {row}, column {column!r} is empty: fill it in")
    frame = frame.astype(dict.fromkeys(_LONG_TEXTS, str))
    frame = frame.assign(**{column: _numbers(frame, column, name) for column in _LONG_NUMBERS})
    _check_pairs(frame, name)
    queries = frame.drop_duplicates("query_id")[list(QUERY_COLUMNS)].reset_index(drop=True)
    models = tuple(frame["model"].unique())
    rows = pd.Index(queries["query_id"]).get_indexer(frame["query_id"])
    columns = pd.Index(models).get_indexer(frame["model"])
    arrays = []
    for column in _LONG_NUMBERS:
        values = np.full((len(queries), len(models)), np.nan)
        values[rows, columns] = frame[column]
        arrays.append(values)
    scores, input_tokens, output_tokens, cost_usd = arrays
    prices = _long_prices(frame, name)
    cost_usd = _costs_from_tokens(cost_usd, input_tokens, output_tokens, models, prices)
    return OutcomesTable(queries, models, scores, input_tokens, output_tokens, cost_usd, prices)


def _long_prices(frame: pd.DataFrame, name: str) -> dict[str, ModelPrice]:
    if not any(column in frame for column in _PRICE_COLUMNS):
        return {}
    _require(frame, _PRICE_COLUMNS, name)
    numbers = frame[["model"]].assign(**{column: _numbers(frame, column, name) for column in _PRICE_COLUMNS})
    by_model = numbers.groupby("model", sort=False)[list(_PRICE_COLUMNS)]
    first = by_model.transform("first")
    for column in _PRICE_COLUMNS:
        wrong = (numbers[column].notna() & (numbers[column] != first[column])) | (numbers[column] < 0)
        if wrong.any():
            row = int(np.argmax(wrong.to_numpy()))
            raise OutcomesTableError(
                f"{name}, row {row}, column {column!r} is {numbers[column].iloc[row]}: give one price of zero or more "
                f"in all rows of model {frame['model'].iloc[row]!r}"
            )
    return {str(model): ModelPrice(*row) for model, *row in by_model.first().dropna().itertuples()}


def _read_long(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False)
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise OutcomesTableError(f"{path.name} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_csv(path: Path) -> pd.DataFrame:
    """A CSV's frame with texts as they are written: left alone, pandas takes "NA" for empty and "01" for 1."""
    empty = {column: [""] for column in _LONG_TEXTS} | dict.fromkeys((*_LONG_NUMBERS, *_PRICE_COLUMNS), _UNKNOWN)
    return pd.read_csv(path, dtype=dict.fromkeys(_LONG_TEXTS, str), keep_default_na=False, na_values=empty)


def _numbers(frame: pd.DataFrame, column: str, name: str) -> FloatArray:
    if column not in frame:
        return np.full(len(frame), np.nan)
    numbers = pd.to_numeric(frame[column], errors="coerce")
    wrong = (numbers.isna() & frame[column].notna()).to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise OutcomesTableError(
            f"{name}, row {row}, column {column!r} is {frame[column].iloc[row]!r}: give a number, or leave it empty"
        )
    return numbers.to_numpy(dtype=np.float64)


def _check_pairs(frame: pd.DataFrame, name: str) -> None:
    repeated = frame.duplicated(["query_id", "model"]).to_numpy()
    if repeated.any():
        row = int(np.argmax(repeated))
        raise OutcomesTableError(
            f"{name}, row {row}: query_id {frame['query_id'].iloc[row]!r} with model "
            f"{frame['model'].iloc[row]!r} "
            "occurs before; keep one row per query and model"
        )
    for column in ("prompt", "task"):
        first = frame.groupby("query_id")[column].transform("first")
        differs = (first != frame[column]).to_numpy()
        if differs.any():
            row = int(np.argmax(differs))
            raise OutcomesTableError(
                f"{name}, row {row}, column {column!r} differs from an earlier row of query_id "
                f"{frame['query_id'].iloc[row]!r}; give different queries different ids"
            )


def _parquet(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise OutcomesTableError(f"{path.parent} has no {path.name}: see docs/prediction.md for the format")
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise OutcomesTableError(f"{path} cannot be read as parquet: {error}") from error


def _require(frame: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise OutcomesTableError(f"{name} lacks the columns {missing}; it has {list(frame.columns)}; add them")


def _wide(path: Path, ids: pd.Series, models: tuple[str, ...], *, required: bool) -> FloatArray:
    """Values of `path` by query and model, NaN where the file or a row is absent."""
    if not required and not path.exists():
        return np.full((len(ids), len(models)), np.nan)
    frame = _parquet(path)
    _require(frame, ("query_id", *models), path.name)
    known = pd.Index(frame["query_id"].astype(str))
    if known.has_duplicates:
        twice = known[known.duplicated()][0]
        raise OutcomesTableError(f"{path.name}, column 'query_id': {twice!r} occurs twice; keep one row")
    stray = known.difference(pd.Index(ids))
    if len(stray):
        raise OutcomesTableError(
            f"{path.name}, column 'query_id': {stray[0]!r} is not in queries.parquet; add it or drop the row"
        )
    columns = {model: _numbers(frame, model, path.name) for model in models}
    return pd.DataFrame(columns, index=known).reindex(ids).to_numpy(dtype=np.float64)


def _read_prices(path: Path, models: tuple[str, ...]) -> dict[str, ModelPrice]:
    if not path.exists():
        return {}
    frame = _read_csv(path)
    _require(frame, ("model", *_PRICE_COLUMNS), path.name)
    numbers = np.column_stack([_numbers(frame, column, path.name) for column in _PRICE_COLUMNS])
    known = {str(model): tuple(row) for model, row in zip(frame["model"], numbers.tolist(), strict=True)}
    return {m: ModelPrice(*known[m]) for m in models if m in known and not np.isnan(known[m]).any()}


def _costs_from_tokens(
    cost_usd: FloatArray,
    input_tokens: FloatArray,
    output_tokens: FloatArray,
    models: tuple[str, ...],
    prices: dict[str, ModelPrice],
) -> FloatArray:
    """Recorded costs, with tokens x list price where no cost was recorded."""
    if not np.isnan(cost_usd).any() or len(prices) < len(models):
        return cost_usd
    usd_per_input, usd_per_output = price_arrays(prices[model] for model in models)
    derived = input_tokens * usd_per_input + output_tokens * usd_per_output
    return np.where(np.isnan(cost_usd), derived, cost_usd)
