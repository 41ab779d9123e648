"""From an outcomes table to what estimators learn from: unknown counts filled in, and prompts encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.text_encoder import TextEncoder

Progress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps at most)."""

ENCODING_STEP = 512
_KINDS = [kind.name for kind in fields(Features)]


def complete_tokens(table: OutcomesTable, encoder: TextEncoder) -> OutcomesTable:
    """The table with unknown token counts and costs of the models with a price filled in as far as they follow
    from one another (`OutcomesTable.with_counted_tokens`).
    """
    priced = [model for model in table.models if model in table.prices]
    columns = [table.models.index(model) for model in priced]
    if not np.isnan([table.output_tokens[:, columns], table.cost_usd[:, columns]]).any():
        return table
    known = table.select_models(priced).with_counted_tokens(encoder.count_tokens(table.prompts))
    filled = {name: getattr(table, name).copy() for name in ("input_tokens", "output_tokens", "cost_usd")}
    for name, values in filled.items():
        values[:, columns] = getattr(known, name)
    return replace(table, **filled)


def encode_in_steps(table: OutcomesTable, encoder: TextEncoder, progress: Progress | None = None) -> Features:
    """Features of a table's requests, reporting progress on the way."""
    tell = of_stage(progress, "encode")
    texts, traits, parts = table.prompts, table.traits, []
    for start in range(0, len(texts), ENCODING_STEP):
        step = slice(start, start + ENCODING_STEP)
        parts.append(Features.of(texts[step], encoder, traits[step]))
        if tell is not None:
            tell(min(start + ENCODING_STEP, len(texts)), len(texts))
    return Features(*(np.vstack([getattr(part, name) for part in parts]) for name in _KINDS))


def of_stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    """What reports the steps of one stage to `progress`."""
    if progress is None:
        return None

    def tell(done: int, total: int) -> None:
        progress(stage, done, total)

    return tell
