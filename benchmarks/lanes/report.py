"""What interactive requests notice of a bulk job beside them, and how many rows a second a job makes.

Simulated engines, 16 slots a model, answers of 48 tokens in 3 s, so that slots and not the machine's cores are short;
predictor, solver, router, ingress and runner are real. Streams for `auto` arrive at random (Poisson), for 40 % of the
slots on average, by turns without a job and beside one that would last longer than the window, at the default reserve.
Ratios are paired by round. A simulated engine is as fast for many requests as for one, so what fuller batches do to
real engines' time between tokens is not in these numbers. Last a job alone on engines that answer at once: its rows a
second are what runner, router and ingress of this machine can do.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.report import table
from benchmarks.load.report import number

TITLE = "Interactive requests beside a bulk job"
COLUMNS = (
    *("load", "requests", "errors", "first token p50 / p95 / p99 ms", "between tokens p50 / p95 / p99 ms"),
    *("end to end p95 ms", "rows/s of the job"),
)
AIMS = ("", "at most", "measured", "range", "met")


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: aims, loads, and the job alone."""
    return [
        "### Aims",
        "",
        *table(AIMS, _aims(result)),
        "",
        "### Loads",
        "",
        *table(COLUMNS, _loads(result)),
        "",
        _alone(result),
    ]


def show(result: dict[str, Any], console: Console) -> None:
    for columns, rows in ((COLUMNS, _loads(result)), (AIMS, _aims(result))):
        found = Table(*columns)
        for row in rows:
            found.add_row(*row)
        console.print(found)
    console.print(_alone(result))


def _aims(result: dict[str, Any]) -> list[list[str]]:
    ranges = list(result["p95_ratios"].values())
    return [
        [
            aim["target"], number(aim["at_most"], 2), number(aim["measured"], 2),
            f"{number(one['min'], 2)} to {number(one['max'], 2)}", "yes" if aim["met"] else "**no**",
        ]
        for aim, one in zip(result["targets"], ranges, strict=True)
    ]  # fmt: skip


def _loads(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name, str(row["requests"]), str(row["errors"]),
            _spread(row["first_token_ms"]), _spread(row["between_tokens_ms"]),
            number(row["latency_ms"]["p95"], 0), number(row["rows_per_s"], 1),
        ]
        for name, row in result["loads"].items()
    ]  # fmt: skip


def _spread(percentiles: dict[str, float]) -> str:
    return " / ".join(number(percentiles[p], 0) for p in ("p50", "p95", "p99"))


def _alone(result: dict[str, Any]) -> str:
    job = result["alone"]
    return (
        f"A job of {job['rows']:,} rows alone, on engines that answer at once: {job['status']}, {job['completed']:,} "
        f"answered, {job['seconds']:.0f} s from its upload to its end, of which {job['running_s']:.0f} s of running: "
        f"{job['completed'] / max(job['running_s'], 1):,.0f} rows/s."
    )
