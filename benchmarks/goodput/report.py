"""Requests that end in time, with and without routing by time, at the same offered load.

Engines and time are simulated; forecast to settlement is the Router's own code, which learns the engines' speeds as
it goes and knows nothing of them before. Four engines of 32 slots, whose steps take 4, 8, 15 and 30 ms alone and some
1.4 to 1.7 times as long when full, as models of 1 to 70 billion parameters about do; dearer models are better and
slower. Requests come at random (Poisson), at shares of what all engines answer when full; answers of 50 to 500 tokens
are expected, and turn out log-normal around that with a spread of 0.4. `In time` is the share of all requests
whose last token comes within 8 s of their arrival, waiting in the Router's queue counted; `success` is the mean of
what was predicted of the models that answered, which is what is true here; `right, in time` is the share that is both.
The first fifth of the requests counts nowhere. Means over the seeds with their 95 % intervals; differences are paired
by seed, to the first row, or under `half the money` (a cap of 0.4 USD per 1000) to the first row under that cap. Caps
are not always spent: where slots are short, routing by success cannot. So the last column compares at equal spend:
requests are divided between the arm's caps (none, 0.4, and 0.25 as `less money`) so that they spend, seed by seed, what
routing by success did; where even the dearest of these spends less, as it is, and so where the cheapest spends up to
5 % more.

Success gains too where slots are short: a second on a slow model is a slot that others do not have meanwhile, which
plans by success alone do not see, since each looks at the slots of its moment. The engines follow the line in the
number of running sequences that the Router fits; how far real ones do is not in these numbers, but in the records
of a service (`predicted_seconds`).
"""

from __future__ import annotations

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
from benchmarks.goodput.run import PLAIN, SPARING

TITLE = "Goodput: requests in time"
AS_GOOD_AS_EQUAL = 0.05
COLUMNS = (
    *("routing", "in time, %", "goodput/s", "success, %", "right, in time, %", "p50 s", "p95 s", "USD per 1000"),
    *("more in time, points", "more success, points", "more right in time, points", "the same at equal spend"),
)


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: a table a load, and what is better."""
    lines = []
    for load in distinct(result["records"], "load"):
        lines += [f"### {_title(load)}", "", *table(COLUMNS, _rows(result, load)), ""]
    return [*lines, *_reading(result)]


def show(result: dict[str, Any], console: Console) -> None:
    for load in distinct(result["records"], "load"):
        found = Table(*COLUMNS, title=_title(load))
        for row in _rows(result, load):
            found.add_row(*row)
        console.print(found)


def _title(load: float) -> str:
    return f"At {load:.0%} of all engines' capacity"


def _rows(result: dict[str, Any], load: float) -> list[list[str]]:
    records = result["records"]
    rows = []
    for arm in distinct(records, "arm"):
        which = {"load": load, "arm": arm}
        base = _base(arm)
        found = {name: over_seeds(records, name, **which) for name in ("in_time", "success", "right_in_time")}
        more = [""] * 4
        if base not in (arm, None):
            gains = [difference(records, name, {"arm": arm}, {"arm": base}, load=load) for name in found]
            more = [points(gain) for gain in (*gains, _at_equal_spend(records, arm, load))]
        rows.append(
            [
                arm,
                shown(found["in_time"], 1, scale=100),
                shown(over_seeds(records, "goodput_per_s", **which), 1),
                shown(found["success"], 1, scale=100),
                shown(found["right_in_time"], 1, scale=100),
                shown(over_seeds(records, "p50_s", **which), 1),
                shown(over_seeds(records, "p95_s", **which), 1),
                shown(over_seeds(records, "usd_per_1000", **which), 2),
                *more,
            ]
        )
    return rows


def _base(arm: str) -> str | None:
    """Routing by success under the same cap; None: it is only there to be mixed."""
    if arm.startswith("less money"):
        return None
    return SPARING if "money" in arm else PLAIN


def _way(arm: str) -> str:
    """An arm's routing, whatever its cap."""
    return arm.removeprefix("half the money, ").removeprefix("less money, ")


def _at_equal_spend(records: list[Record], arm: str, load: float) -> Summary:
    """More that is right and in time, at what routing by success spends under the arm's cap; NaN: it costs more."""
    base = {"load": load, "arm": _base(arm)}
    caps = [{"arm": other} for other in distinct(records, "arm") if _way(other) == _way(arm)]
    spent, plain = (by_seed(records, name, **base) for name in ("usd_per_1000", "right_in_time"))
    least_usd = min(over_seeds(records, "usd_per_1000", load=load, **cap).mean for cap in caps)
    if least_usd > (1 + AS_GOOD_AS_EQUAL) * over_seeds(records, "usd_per_1000", **base).mean:
        return Summary.of([])
    found = at_spend(records, "right_in_time", "usd_per_1000", caps, spent, load=load)
    return Summary.of([found[seed] - plain[seed] for seed in plain])


def _reading(result: dict[str, Any]) -> list[str]:
    """A line an arm: what it is at each load, in time and in success."""
    records = result["records"]
    lines = []
    for arm in distinct(records, "arm"):
        if _base(arm) in (arm, None):
            continue
        said = []
        for load in distinct(records, "load"):
            in_time, success = (
                called(difference(records, name, {"arm": arm}, {"arm": _base(arm)}, load=load))
                for name in ("in_time", "success")
            )
            gain = _at_equal_spend(records, arm, load)
            matched = called(gain) if gain.n else "not to be had"
            said.append(f"at {load:.0%} in time {in_time}, success {success}, right in time at equal spend {matched}")
        lines.append(f"- {arm}, beside {_base(arm)}: {'; '.join(said)}.")
    return lines
