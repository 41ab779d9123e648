"""Writes a result as JSON with a Markdown page beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.report import to_json


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(result: dict[str, Any], title: str, about: str, lines: Sequence[str], file: Path) -> None:
    """FILE as JSON, and the lines as a page of the same name with the ending .md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_json(result))
    stamp = result["stamp"]
    made = (
        f"`python -m benchmarks {file.stem}` at {stamp['commit']}, {stamp['time'][:10]}, on {stamp['machine']['cpu']} "
        f"with {stamp['machine']['cores']} cores."
    )
    file.with_suffix(".md").write_text("\n".join([f"# {title}", "", about, "", made, "", *lines]) + "\n")
