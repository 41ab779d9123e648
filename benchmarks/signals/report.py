"""What it costs a real engine to tell how sure it was of its answers.

One engine of the zoo at its own port, in a process of its own; chats of 32 tokens, so many at a time, in three ways
that take turns within a round: plain; with signals, as an ingress asks for them; and with the log-probabilities as
JSON, as a client has to ask for them. Speeds are output tokens a second, client included; ratios are paired by round.
The zoo's models are so small that nearly all of a step is Python and scheduling, of which signals are a part: the
share is smaller the larger the model is.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number

TITLE = "What signals cost"
COLUMNS = (
    *("at a time", "plain tokens/s", "with signals over plain", "range over the rounds"),
    *("as JSON over plain", "range over the rounds"),
)


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: one table."""
    return [*table(COLUMNS, _rows(result)), "", _about(result)]


def show(result: dict[str, Any], console: Console) -> None:
    found = Table(*COLUMNS)
    for row in _rows(result):
        found.add_row(*row)
    console.print(found)
    console.print(_about(result))


def _rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        [at_once, number(one["tokens_per_s"]["plain"], 0), *_ratio(one, "signals"), *_ratio(one, "json")]
        for at_once, one in result["at_once"].items()
    ]


def _ratio(one: dict[str, Any], way: str) -> tuple[str, str]:
    found = one["over_plain"][way]
    return number(found["median"], 2), f"{number(found['min'], 2)} to {number(found['max'], 2)}"


def _about(result: dict[str, Any]) -> str:
    settings = result["stamp"]["settings"]
    return f"{settings['model']}, {settings['rounds']} rounds of about {settings['seconds']:g} s each way."
