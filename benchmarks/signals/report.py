"""What it costs a real engine to tell how sure it was of its answers.

One engine of the zoo at its own port, in a process of its own; chats of 32 tokens, so many at a time, in three ways
that take turns within a round: plain; with signals, as an ingress asks for them; and with the log-probabilities as
JSON, as a client has to ask for them. Ratios to the plain way are paired by round, and their medians have 95 %
intervals over bootstrapped rounds: of the time a token takes, client included, and of the CPU that the engine's
processes take for it, which other work on the machine disturbs less. The zoo's models are so small that nearly all of a
step is Python and scheduling, of which signals are a part: the share is smaller the larger the model is.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number

TITLE = "What signals cost"
COLUMNS = (
    *("at a time", "way", "ms a token", "over plain", "95 % interval"),
    *("engine's CPU ms a token", "over plain", "95 % interval"),
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
        [at_once, way, *(cell for column in range(2) for cell in _cells(one, way, column))]
        for at_once, one in result["at_once"].items()
        for way in one["ms_a_token"]
    ]


def _cells(one: dict[str, Any], way: str, column: int) -> tuple[str, str, str]:
    told = number(one["ms_a_token"][way][column], 3)
    if way not in one["over_plain"]:
        return told, "", ""
    ratio = one["over_plain"][way][column]
    return told, number(ratio["median"], 2), f"{number(ratio['low'], 2)} to {number(ratio['high'], 2)}"


def _about(result: dict[str, Any]) -> str:
    settings = result["stamp"]["settings"]
    return (
        f"{settings['model']}, {settings['rounds']} rounds of about {settings['seconds']:g} s each way; load average "
        f"at the end {result['load_average']:.1f}."
    )
