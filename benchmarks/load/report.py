"""Writes a result of the service as JSON with a Markdown page beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from benchmarks.experiments.report import to_json


class Report(Protocol):
    """A module that says what a result means; its docstring says what was measured."""

    TITLE: str

    def section(self, result: dict[str, Any]) -> list[str]:
        """Lines of Markdown."""


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(result: dict[str, Any], report: Report, file: Path) -> None:
    """FILE as JSON, and its page under the same name with the ending .md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = to_json(result)
    file.write_text(text)
    # From what was written, whose numbers are rounded: the page can be made again from the file alone.
    file.with_suffix(".md").write_text(page(json.loads(text), report, file.stem))


def page(result: dict[str, Any], report: Report, command: str) -> str:
    """The page of a result, as Markdown; made from nothing but the result."""
    stamp = result["stamp"]
    made = (
        f"`python -m benchmarks {command}` at {stamp['commit']}, {stamp['time'][:10]}, on {stamp['machine']['cpu']} "
        f"with {stamp['machine']['cores']} cores."
    )
    about = (report.__doc__ or "").strip()
    return "\n".join([f"# {report.TITLE}", "", about, "", made, "", *report.section(result)]) + "\n"
