"""Signals in outcomes files: four columns of an answer, all of them filled in or none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.columns import Place, numbers, require, row_of, texts
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.signals import SIGNALS, wrong_signals

SIGNALS_FILE = "signals.parquet"


def signal_columns(frame: pd.DataFrame, at: Place) -> FloatArray:
    """(n_rows, 4) in the order of `SIGNALS`, rows of NaN where nobody asked for them.

    Raises:
        OutcomesTableError: a row has some of the four, or numbers that can be no answer's.
    """
    bounds = dict.fromkeys(SIGNALS, (0.0, -math.inf)) | {"mean_margin": (math.inf, 0.0)}
    found = np.stack([numbers(frame, name, at, *bounds[name]) for name in SIGNALS], axis=-1)
    wrong = wrong_signals(found)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise OutcomesTableError(
            f"{at(row)}, columns {', '.join(SIGNALS)} are {found[row].tolist()}: fill in all four with the least below "
            "the mean and the quantile, or none"
        )
    return found


def signals_by_answer(
    signals: FloatArray, ids: pd.Series, models: pd.Series, queries: pd.Series, columns: tuple[str, ...]
) -> FloatArray | None:
    """Signals of rows, (n_rows, 4), as a table has them: (n_queries, n_models, 4); None where no row has any.

    Args:
        ids: (n_rows,), the query of every row.
        models: (n_rows,), its model.
        queries: (n_queries,), the ids of the table.
        columns: the models of the table.
    """
    if np.isnan(signals).all():
        return None
    found = np.full((len(queries), len(columns), len(SIGNALS)), np.nan)
    found[pd.Index(queries).get_indexer(pd.Index(ids)), pd.Index(columns).get_indexer(pd.Index(models))] = signals
    return found


def read_signals(path: Path, queries: pd.Series, columns: tuple[str, ...]) -> FloatArray | None:
    """Signals of a folder's queries and models, (n_queries, n_models, 4); None where there is no such file.

    Raises:
        OutcomesTableError: the file cannot be read, an answer is another table's or there twice, or its numbers are
            wrong.
    """
    if not path.exists():
        return None
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise OutcomesTableError(f"{path} cannot be read as parquet: {error}") from error
    require(frame, ("query_id", "model", *SIGNALS), path.name)
    at = row_of(path.name)
    keys = pd.DataFrame({name: texts(frame[name], name, at) for name in ("query_id", "model")})
    for name, known, place in (
        ("query_id", queries, "queries.parquet"),
        ("model", pd.Series(columns), "scores.parquet"),
    ):
        stray = ~keys[name].isin(known)
        if stray.any():
            row = int(np.argmax(stray))
            raise OutcomesTableError(
                f"{at(row)}, column {name!r}: {keys[name].iloc[row]!r} is not in {place}; add it or drop the row"
            )
    if keys.duplicated().any():
        row = int(np.argmax(keys.duplicated()))
        raise OutcomesTableError(f"{at(row)}: {tuple(keys.iloc[row])} stands twice; keep one row per query and model")
    return signals_by_answer(signal_columns(frame, at), keys["query_id"], keys["model"], queries, columns)


def write_signals(table: OutcomesTable, path: Path) -> None:
    """Writes the table's signals, a row an answer that has them, as 32-bit numbers; without any the file is removed."""
    if table.signals is None:
        path.unlink(missing_ok=True)
        return
    rows, columns = np.nonzero(~np.isnan(table.signals[:, :, 0]))
    ids, models = table.queries["query_id"].to_numpy(), np.array(table.models)
    keys = {"query_id": ids[rows], "model": models[columns]}
    values = dict(zip(SIGNALS, table.signals[rows, columns].T.astype(np.float32), strict=True))
    pd.DataFrame(keys | values).to_parquet(path, index=False)
