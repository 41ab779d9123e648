"""From a journal to the outcomes table, a row per query and model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from apportion.deployments.collect.collector import Plan
from apportion.deployments.collect.journal import Journal
from apportion.router.errors import ConfigurationError
from apportion.router.outcomes.long import CACHED_PRICE, PRICE_COLUMNS, SUFFIXES
from apportion.router.signals import SIGNALS
from apportion.router.traits import FIELDS


def check_target(out: Path) -> None:
    """Raises: ConfigurationError: the table cannot be written in the form that the name asks for."""
    if out.suffix not in SUFFIXES:
        raise ConfigurationError(f"{out}: unknown form; give a file ending in {', '.join(SUFFIXES)}")


def rows_of(plan: Plan, journal: Journal) -> list[dict[str, Any]]:
    """A row for every query and model of which all samples are judged; its score, tokens, cost and signals are their
    means.

    Models that an earlier run asked are there too. A failure has score 0, and its reason in `error`.
    """
    rows = []
    models = dict.fromkeys([*plan.models, *(model for _, model, _ in journal.answers)])
    for question in plan.questions:
        for model in models:
            keys = [(question.query_id, model, sample) for sample in range(plan.samples)]
            answers = [journal.answers.get(key) for key in keys]
            known = [answer for answer in answers if answer is not None]
            scores = [
                0.0 if answer["error"] is not None else journal.scores.get((key, plan.judge_name))
                for key, answer in zip(keys, known, strict=False)
            ]
            if len(known) < plan.samples or None in scores:
                continue
            prices = journal.prices.get(model, [None, None, None])
            rows.append(
                {
                    "query_id": question.query_id,
                    "task": question.task,
                    "prompt": question.content,
                    **{name: value for name, value in question.parameters.items() if name in FIELDS},
                    "model": model,
                    "score": fmean(score for score in scores if score is not None),
                    **{name: _mean([a[name] for a in known]) for name in ("input_tokens", "output_tokens")},
                    "cached_tokens": _mean([a["cached_tokens"] for a in known]),
                    "cost_usd": _mean([a["cost_usd"] for a in known]),
                    **_signals(known),
                    **dict(zip((*PRICE_COLUMNS, CACHED_PRICE), prices, strict=True)),
                    "error": next((a["error"] for a in known if a["error"] is not None), None),
                }
            )
    return rows


def write_rows(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """The long file that `read_outcomes` reads, whole or not at all."""
    import pandas as pd

    part = out.with_name(out.name + ".part")
    if out.suffix == ".jsonl":
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        printed = [
            {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
            for row in rows
        ]
        frame = pd.DataFrame(printed)
        frame.to_csv(part, index=False) if out.suffix == ".csv" else frame.to_parquet(part, index=False)
    os.replace(part, out)


def _signals(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of the answers that have some; no columns where none has."""
    told = [answer["signals"] for answer in answers if answer.get("signals") is not None]
    return {name: fmean(values) for name, values in zip(SIGNALS, zip(*told, strict=True), strict=True)} if told else {}


def _mean(values: Sequence[float | None]) -> float | None:
    """Of the known ones: a failure's tokens are unknown."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
