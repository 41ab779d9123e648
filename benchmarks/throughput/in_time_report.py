"""What is told of requests in time: shares, rates and money of every arm, and how well seconds were predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.numbers import (
    Record,
    at_spend,
    by_seed,
    called,
    difference,
    distinct,
    over_seeds,
    points,
    shown,
)
from benchmarks.experiments.report import table
from benchmarks.load.report import number
from benchmarks.throughput.in_time import FREE, PLAIN

COLUMNS = (
    *("routing", "in time, %", "goodput/s", "right, %", "right, in time, %", "right, in time/s", "p50 s", "p95 s"),
    *("USD per 1000", "more in time, points", "more right in time, points", "the same at equal spend"),
)
ARM_FIELDS = (
    *(("in_time", 1, 100.0), ("goodput_per_s", 1, 1.0), ("right", 1, 100.0), ("right_in_time", 1, 100.0)),
    *(("right_in_time_per_s", 1, 1.0), ("p50_s", 2, 1.0), ("p95_s", 2, 1.0), ("usd_per_1000", 4, 1.0)),
)


def section(found: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    lines = ["### Requests in time", "", *_about(found), ""]
    for load in distinct(found["records"], "load"):
        lines += [f"#### {title(found, load)}", "", *table(COLUMNS, rows(found, load)), ""]
    lines += [*_reading(found["records"]), "", "#### Predicted seconds", "", *_calibration(found)]
    return lines


def title(found: dict[str, Any], load: float) -> str:
    """A load with its target."""
    rate, target_s = load * found["capacity_per_s"], found["targets_s"][f"{load:g}"]
    return f"At {load:.0%} of capacity ({rate:.1f} requests/s), within {target_s:.2f} s"


def rows(found: dict[str, Any], load: float) -> list[list[str]]:
    """A row an arm: its means, and what is better than by success alone, under the same cap and at its own spend."""
    records, told = found["records"], []
    for arm in distinct(records, "arm"):
        means = [over_seeds(records, name, load=load, arm=arm) for name, _, _ in ARM_FIELDS]
        cells = [shown(mean, digits, scale=scale) for mean, (_, digits, scale) in zip(means, ARM_FIELDS, strict=True)]
        more = ["", "", ""]
        if arm not in (FREE, PLAIN):
            gains = [_gain(records, name, arm, load) for name in ("in_time", "right_in_time")]
            more = [*map(points, gains), points(at_equal_spend(records, "right_in_time", arm, load))]
        told.append([arm, *cells, *more])
    return told


def at_equal_spend(records: Sequence[Record], name: str, arm: str, load: float) -> Summary:
    """A field of the arm less that of routing by success at the arm's spend, round by round.

    That is what requests get that are divided between the caps, with and without, so that they spend as much; beyond
    both, what the nearer one gets.
    """
    spent, value = (by_seed(records, field, load=load, arm=arm) for field in ("usd_per_1000", name))
    plain = at_spend(records, name, "usd_per_1000", [{"arm": PLAIN}, {"arm": FREE}], spent, load=load)
    return Summary.of([value[seed] - plain[seed] for seed in value])


def _gain(records: Sequence[Record], name: str, arm: str, load: float) -> Summary:
    return difference(records, name, {"arm": arm}, {"arm": PLAIN}, load=load)


def _about(found: dict[str, Any]) -> list[str]:
    stamp, records = found["stamp"], found["records"]
    settings = stamp["settings"]
    cpu = max(record["client_cpu"] for record in records)
    errors = sum(record["errors"] for record in records)
    busy = [record["load_average"] for record in records]
    return [
        f"The four engines with {settings['slots']} slots each. Requests come at random (Poisson), whatever is "
        f"running, at shares of the {found['capacity_per_s']:.1f} requests/s that a closed loop gets with every slot "
        "taken; they are the zoo's graded questions, whose answers go on (`ignore_eos`) for 24 to 160 tokens each, "
        "and are graded by what stands before their first end of text. In time is what ends within the "
        f"{settings['target_percentile']:g}th "
        "percentile of routing by success alone, measured beforehand at each load. All but the first row are under one "
        f"cap: a request brings {1e3 * found['cap_usd_per_request']:.3f} USD per 1000, {settings['cap_share']:.0%} of "
        "what is spent without; dollars are those settled. "
        f"{settings['rounds']} rounds of {settings['window_s']:g} s of arrivals, the same questions, lengths and "
        "arrivals for every arm, whose order turns around with each round; means with 95 % intervals, differences "
        "paired by round, to `by success`. The last column compares with `by success` at the arm's own spend, mixed of "
        "the first two rows, or with the cheaper of these where the arm spends less than both. Load average "
        f"{min(busy):.0f} to {max(busy):.0f}; the load generator took at most {cpu:.2f} of a core; {errors} errors.",
        "",
        f"Measured at {stamp['commit']}, {stamp['time'][:16].replace('T', ' ')}, on {stamp['machine']['cores']} cores.",
    ]


def _reading(records: Sequence[Record]) -> list[str]:
    lines = []
    for arm in distinct(records, "arm"):
        if arm in (FREE, PLAIN):
            continue
        said = [
            f"at {load:.0%} in time {called(_gain(records, 'in_time', arm, load))}, right in time "
            f"{called(_gain(records, 'right_in_time', arm, load))}, at equal spend "
            f"{called(at_equal_spend(records, 'right_in_time', arm, load))}"
            for load in distinct(records, "load")
        ]
        lines.append(f"- {arm}, beside {PLAIN}: {'; '.join(said)}.")
    return lines


def _calibration(found: dict[str, Any]) -> list[str]:
    columns = ("load", "routing", "requests", "unknown", "predicted / taken, median", "80 % band", "rank correlation")
    cells = [
        [
            f"{one['load']:.0%}",
            one["arm"],
            str(one["requests"]),
            str(one["unknown"]),
            number(one["p50"], 2),
            "" if one["p10"] is None else f"{one['p10']:.2f} to {one['p90']:.2f}",
            number(one["rank_correlation"], 2),
        ]
        for one in found["calibration"]
    ]
    return [
        "From dispatch to the last byte, as `x-router-predicted-seconds` says and as the service's clock measures.",
        "",
        *table(columns, cells),
    ]


def show(found: dict[str, Any], console: Console) -> None:
    for load in distinct(found["records"], "load"):
        shown_table = Table(*COLUMNS, title=title(found, load))
        for row in rows(found, load):
            shown_table.add_row(*row)
        console.print(shown_table)
    for line in [*_reading(found["records"]), *_calibration(found)]:
        console.print(line)
