"""Writes a result as JSON with a Markdown page beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in [headings, rule, *rows]]


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(result: dict[str, Any], title: str, lines: Sequence[str], file: Path) -> None:
    """FILE as JSON, and the lines as a page of the same name with the ending .md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_short(result), indent=1) + "\n")
    stamp = result["stamp"]
    made = (
        f"`python -m benchmarks {file.stem}` at {stamp['commit']}, {stamp['time'][:10]}, on {stamp['machine']['cpu']} "
        f"with {stamp['machine']['cores']} cores."
    )
    file.with_suffix(".md").write_text("\n".join([f"# {title}", "", made, "", *lines]) + "\n")


def _short(value: Any) -> Any:
    """Floats to five digits; what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
