"""What deciding a request costs the Router: CPU of its batch room, in this process, without Ray, HTTP and the link.

Predictor and solver have processes of their own in the service, so what they take does not count; the ledger's thread
(SQLite) does. Some requests end together, as many come, and so on: 8 at a time, as at a moderate pace, or 256, a whole
batch, where an idle queue costs least. All cases take turns in a round and ratios are of the same round; CPU is the
process's, so that a busy machine disturbs it little. Keys with budgets have all spent today before.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number

TITLE = "The Router under overload and with many budgets"
COLUMNS = ("case", "CPU, us a request", "range", "end together", "decided of them", "waiting")
RATIOS = ("case", "beside", "ratio", "range", "at most", "met")


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: ratios, and what each case took."""
    return ["### Ratios", "", *table(RATIOS, _ratios(result)), "", "### CPU", "", *table(COLUMNS, _rows(result))]


def show(result: dict[str, Any], console: Console) -> None:
    for columns, rows in ((COLUMNS, _rows(result)), (RATIOS, _ratios(result))):
        found = Table(*columns)
        for row in rows:
            found.add_row(*row)
        console.print(found)


def _rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["case"],
            number(row["cpu_us_per_request"]["median"], 0),
            _range(row["cpu_us_per_request"], 0),
            str(row["ending"]),
            number(row["decided_a_step"]),
            number(row["waiting"], 0),
        ]
        for row in result["cases"]
    ]


def _ratios(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["case"],
            row["beside"],
            number(row["ratio"]["median"], 2),
            _range(row["ratio"], 2),
            number(row["at_most"]),
            "" if row["at_most"] is None else "yes" if row["met"] else "**no**",
        ]
        for row in result["ratios"]
    ]


def _range(values: dict[str, float], digits: int) -> str:
    return f"{number(values['min'], digits)} to {number(values['max'], digits)}"
