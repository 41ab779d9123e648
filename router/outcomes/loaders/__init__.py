"""Outcomes from anywhere: the project's own formats, and public data sets given by a path or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apportion.router.errors import OutcomesTableError

if TYPE_CHECKING:
    from apportion.router.outcomes.table import OutcomesTable

PUBLIC = ("routerbench", "sprout", "uncertainty-bench")


def load_outcomes(source: str | Path, group: str | None = None) -> OutcomesTable:
    """The table of a path in one of the project's formats, or of `routerbench:WHERE`, `sprout:WHERE` or
    `uncertainty-bench:WHERE`, with a file or folder or hub id as WHERE (left out: the set's own hub id).

    Args:
        group: column whose equal values mark queries that no split parts (`read_outcomes`); not of a public set.

    Raises:
        OutcomesTableError: there is nothing to read, or it cannot be read.
    """
    kind, _, where = str(source).partition(":")
    if kind in PUBLIC and group is not None:
        raise OutcomesTableError(
            f"group {group!r}: {kind} has no such column; leave it out, and prompts are the groups"
        )
    if kind == "routerbench":
        from apportion.router.outcomes.loaders.routerbench import load_routerbench

        return load_routerbench(where or "withmartian/routerbench")
    if kind == "sprout":
        from apportion.router.outcomes.loaders.sprout import load_sprout

        return load_sprout(where or "CARROT-LLM-Routing/SPROUT")
    if kind == "uncertainty-bench":
        from apportion.router.outcomes.loaders.uncertainty_bench import load_uncertainty_bench

        return load_uncertainty_bench(where or "ErikYip/LLM-Uncertainty-Bench")
    if where and not Path(source).exists():
        raise OutcomesTableError(f"{kind!r} is no kind of outcomes: use a path, or {', '.join(PUBLIC)} before ':'")
    from apportion.router.outcomes.files import read_outcomes

    return read_outcomes(source, group)
