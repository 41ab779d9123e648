"""What several Routers that share slots and money would lose against one, simulated: nothing in the service does it.

Accounts are spread over the Routers at random, and each Router plans its accounts' requests within its share of the
slots and of the money: an equal one; one by the requests it had in the last period; the same, and what is left over
is lent to requests that their own Router has nothing for; or the slots and the money that one plan of the last period
for all of them would have used, and the rest lent. Or nobody has a share: each request goes where it is worth most at
the prices of money and slots that one plan of the last period has had, and takes what is there. `Loss` is that of
expected success against one Router that plans all together, requests that go nowhere counting nothing, and `not
served` the share of requests that go nowhere though one Router would have served them. Means over the seeds with
their 95 % intervals. Slots are 1.05 times the requests where they are short, the same of every model, and money lies
40 % of the way from the cheapest choice that the slots allow to the best. Requests are of 200 accounts whose sizes
follow Zipf's law, each of its own kind; `recorded` are the zoo's answers with the success of their tasks.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.experiments.numbers import distinct, over_seeds, shown
from benchmarks.experiments.report import table

TITLE = "What sharding the Router would cost"


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: a table a source of requests."""
    lines = []
    for source in distinct(result["records"], "source"):
        columns, rows = _table(result, source)
        lines += [f"### {source}", "", *table(columns, rows), ""]
    return lines


def show(result: dict[str, Any], console: Console) -> None:
    for source in distinct(result["records"], "source"):
        columns, rows = _table(result, source)
        found = Table(*columns, title=source)
        for row in rows:
            found.add_row(*row)
        console.print(found)


def _table(result: dict[str, Any], source: str) -> tuple[list[str], list[list[str]]]:
    records = result["records"]
    counts = distinct(records, "routers")
    columns = ["short of", "shares", *(f"loss, %, {count} Routers" for count in counts)]
    columns.append(f"not served, %, {counts[-1]} Routers")
    rows = []
    for limits in distinct(records, "limits"):
        for arm in distinct(records, "arm"):
            which = {"source": source, "limits": limits, "arm": arm}
            losses = [shown(over_seeds(records, "loss", **which, routers=count), 2, scale=100) for count in counts]
            unserved = over_seeds(records, "unserved", **which, routers=counts[-1])
            rows.append([limits, arm, *losses, shown(unserved, 1, scale=100)])
    return columns, rows
