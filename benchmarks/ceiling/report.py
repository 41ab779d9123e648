"""How many requests a second one Router decides, as far as its CPU goes.

The real Router in one process, at all the load that it can take, without Ray and HTTP: ingresses send requests and
tell their ends as fast as they hear of verdicts, in the service's own frames. What ingresses, predictor and solver do
in processes of their own does not count; the ledger's thread (SQLite), heartbeats and housekeeping do. An empty queue
is planned in batches of 256. A full one holds 4,096, gets twice what it decides, and refuses half, which counts
too. Requests come from 50 accounts in turn where no other number is told, and each has spent before. `CPU` is that of
the Router's process for a decided request, decisions a second are what one core makes at that, and memory is what the
process took since before the Router was made.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number

TITLE = "How far one Router goes"
AIMS = ("case", "measured", "found", "range", "aim", "met")
COLUMNS = (
    *("case", "decisions/s a core", "CPU, us a decision", "range", "ingresses", "decided an exchange", "waiting"),
    *("in flight", "memory, MiB"),
)


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: aims, and what each case took."""
    return ["### Aims", "", *table(AIMS, _aims(result)), "", "### Cases", "", *table(COLUMNS, _cases(result))]


def show(result: dict[str, Any], console: Console) -> None:
    for columns, rows in ((COLUMNS, _cases(result)), (AIMS, _aims(result))):
        found = Table(*columns)
        for row in rows:
            found.add_row(*row)
        console.print(found)


def _cases(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["case"],
            f"{row['decisions_per_s']:,.0f}",
            number(row["cpu_us_per_decision"]["median"], 0),
            _range(row["cpu_us_per_decision"], 0),
            str(row["ingresses"]),
            number(row["decided_an_exchange"]),
            number(row["waiting"], 0),
            number(row["in_flight"], 0),
            number(row["memory_mib"]),
        ]
        for row in result["cases"]
    ]


def _aims(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["case"],
            "decisions/s a core" if row["beside"] is None else f"CPU over {row['beside']}",
            number(row["found"]["median"], 0 if row["beside"] is None else 2),
            _range(row["found"], 0 if row["beside"] is None else 2),
            f"at least {row['limit']:,.0f}" if row["beside"] is None else f"at most {row['limit']:g}",
            "yes" if row["met"] else "**no**",
        ]
        for row in result["aims"]
    ]


def _range(values: dict[str, float], digits: int) -> str:
    return f"{number(values['min'], digits)} to {number(values['max'], digits)}"
