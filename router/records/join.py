"""Records and feedback as an outcomes table: what `train`, `calibrate` and `evaluate` read.

Each request was answered by one model, so each row knows one column; the others are unknown (NaN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.batch.messages import Ending
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import TRAIT_COLUMNS, OutcomesTable
from apportion.router.prices import ModelPrice
from apportion.router.records.schema import FEEDBACK, PROMPTS, REQUESTS, Kind
from apportion.router.records.store import Store
from apportion.router.signals import SIGNALS
from apportion.router.traits import Traits

_FIRST_ERROR = 400
_PRICES = ("input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million")
_COLUMNS = (
    "id",
    "time",
    "chosen",
    "ending",
    "status",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "second",
    *_PRICES,
    *SIGNALS,
)


@dataclass(frozen=True)
class Joined:
    """The table, and what became of the records on the way to it.

    Args:
        table: its rows in the order in which the requests ended.
        ended: when they did, (N,) of `datetime64`.
        requests: that have ended.
        answered: of these, by a model.
        judged: of these, by feedback that counts.
        without_prompt: of those that were to be rows, left out since nobody knows what was asked.
        strays: judged answers of which there is no record.
        by_model: rows that each model answered.
    """

    table: OutcomesTable
    ended: pd.Series
    requests: int
    answered: int
    judged: int
    without_prompt: int
    strays: int
    by_model: Mapping[str, int]


def join(
    store: Store,
    key: str | None = None,
    *,
    since: date = date.min,
    unjudged: bool = False,
    prompts: pd.DataFrame | None = None,
) -> Joined:
    """The outcomes of all requests that were answered, and judged.

    Args:
        key: the feedback that is the score; None: the only one that is a number.
        since: the first day (UTC) whose segments count.
        unjudged: with the answers that nobody judged too: they tell how long answers are.
        prompts: what was asked, where it is not among the records: the columns `id`, `prompt` and `TRAIT_COLUMNS`.

    Raises:
        OutcomesTableError: there is nothing to join, or it is not clear which feedback is the score.
    """
    requests = _last(_frame(store, REQUESTS, since, _COLUMNS), ["id"])
    # No outcome of the model's are an error that its engine answers with, and what generates nothing; and of a cascade
    # the answer is chosen by how sure its model was, which says too much good of it, or ill.
    answered = requests[
        (requests["ending"] == Ending.answered.name)
        & ~(requests["status"] >= _FIRST_ERROR)
        & ~(requests["output_tokens"] == 0)
        & requests["second"].isna()
    ]
    scores = _scores(_frame(store, FEEDBACK, since), key)
    rows = answered.merge(scores, on="id", how="left" if unjudged else "inner")
    asked = _asked(store, since) if prompts is None else prompts
    known = rows.merge(asked, on="id", how="inner").sort_values("time", kind="stable", ignore_index=True)
    if known.empty:
        raise OutcomesTableError(
            f"records: {len(requests)} requests, {len(answered)} of them answered, {len(rows)} of these judged, and of "
            "none is known what was asked; keep prompts (records.prompts: true), or give them with --prompts"
            if len(rows)
            else f"records: {len(requests)} requests, {len(answered)} of them answered, and none of these judged; have "
            "feedback sent in, or ask for unjudged answers too (--unjudged)"
        )
    return Joined(
        table=_table(known),
        ended=known["time"],
        requests=len(requests),
        answered=len(answered),
        judged=int(answered["id"].isin(scores["id"]).sum()),
        without_prompt=len(rows) - len(known),
        strays=int((~scores["id"].isin(requests["id"])).sum()),
        by_model={str(model): int(count) for model, count in known["chosen"].value_counts().items()},
    )


def _frame(store: Store, kind: Kind, since: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
    found: pd.DataFrame = store.read(kind, since, columns).to_pandas()
    return found


def _last(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return frame.sort_values("time", kind="stable").drop_duplicates(columns, keep="last")


def _scores(feedback: pd.DataFrame, key: str | None) -> pd.DataFrame:
    """By answer what was said last, if it was not taken back: the columns `id` and `score`."""
    numbers = sorted(feedback.loc[feedback["number"].notna(), "key"].unique())
    if key is None and len(numbers) > 1:
        raise OutcomesTableError(f"feedback: {', '.join(numbers)} are all numbers; say with --key which is the score")
    if key is not None and key not in set(feedback["key"]) and len(feedback):
        raise OutcomesTableError(f"feedback: nobody said {key!r}; what was said is {', '.join(numbers) or 'no number'}")
    chosen = key if key is not None else next(iter(numbers), None)
    last = _last(feedback[feedback["key"] == chosen], ["id"])
    said = last[last["number"].notna()]
    return said[["id", "number"]].rename(columns={"number": "score"})


def _asked(store: Store, since: date) -> pd.DataFrame:
    kept = _last(_frame(store, PROMPTS, since), ["id"]).drop(columns="time")
    return kept.rename(columns=dict(zip(Traits._fields, TRAIT_COLUMNS, strict=True)))


def _table(rows: pd.DataFrame) -> OutcomesTable:
    models = sorted(rows["chosen"].unique())
    columns = pd.Index(models).get_indexer(rows["chosen"])

    def spread(name: str) -> FloatArray:
        values = np.full((len(rows), len(models)), np.nan)
        values[np.arange(len(rows)), columns] = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        return values

    signals = np.stack([spread(name) for name in SIGNALS], axis=-1)
    queries = pd.DataFrame({"query_id": rows["id"], "task": "", "prompt": rows["prompt"]})
    traits = rows[list(TRAIT_COLUMNS)].astype(np.int64)
    return OutcomesTable(
        queries=pd.concat([queries, traits], axis=1),
        models=tuple(models),
        scores=spread("score"),
        input_tokens=spread("input_tokens"),
        output_tokens=spread("output_tokens"),
        cost_usd=spread("cost_usd"),
        prices={str(model): _price(part.iloc[-1]) for model, part in rows.groupby("chosen") if _priced(part.iloc[-1])},
        signals=None if np.isnan(signals).all() else signals,
    )


def _priced(row: pd.Series) -> bool:
    return bool(row[list(_PRICES[:2])].notna().all())


def _price(row: pd.Series) -> ModelPrice:
    """The one of the row, which is the model's last."""
    input_usd, output_usd, cached_usd = (row[name] for name in _PRICES)
    return ModelPrice(float(input_usd), float(output_usd), None if pd.isna(cached_usd) else float(cached_usd))
