"""A plan for people: the numbers, each model's load, and a picture of the GPUs with what sits where."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from apportion.allocation.bill import Bill, Trade
from apportion.allocation.cluster import Node
from apportion.allocation.near import Moves
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.problem import SUCCESS_USD
from apportion.allocation.replica import SHARE_UNITS

# A GPU is drawn this wide, equal nodes beyond so many are only counted.
_GPU_WIDTH = 20
_GPUS_A_LINE = 4
_COLOURS = ("blue", "green", "magenta", "yellow", "cyan", "red", "bright_blue", "bright_green", "bright_magenta")
_FREE = "·"


def show(plan: Plan, console: Console) -> None:
    """Print the whole report."""
    console.print(summary(plan), highlight=False)
    console.print(models_table(plan))
    console.print(picture(plan))
    if plan.bill is not None and (len(plan.bill.gpus) > 1 or plan.bill.bought):
        console.print(bill_table(plan.bill))
    if plan.trades:
        console.print(trades_table(plan.trades))
    if plan.latencies:
        console.print(latencies_table(plan))
    if plan.assessments:
        console.print(assessments_table(plan))
    if plan.bounds:
        console.print(bounds_table(plan))


def summary(plan: Plan) -> str:
    """What it is expected to do, how near to the best that is, and what it costs an hour."""
    used = len({(p.node, g) for p in plan.placements for g in p.gpus})
    budget = "no budget" if plan.budget_usd is None else f"budget {plan.budget_usd:.4g}"
    lines = (
        f"{len(plan.placements)} replicas on {used} of {plan.cluster.n_gpus} GPUs for {plan.rate_per_s:.4g} requests/s "
        f"of which about {plan.batch_size} run at once\n"
        f"expected success {plan.expected_quality:.4f}; no plan is better by more than {plan.gap:.2%}\n"
        f"a request costs {plan.expected_cost_usd:.4g} USD at the models' token prices ({budget})"
    )
    return lines if plan.bill is None else f"{lines}\n{_costs(plan, plan.bill)}"


def _costs(plan: Plan, bill: Bill) -> str:
    gpus, bought = bill.gpus_usd_per_hour, bill.bought_usd_per_hour
    unknown = sorted({cost.gpu_type for cost in bill.gpus if cost.used and cost.price is None})
    if gpus is None:
        told = (
            f"an hour costs {bought:,.2f} USD for bought tokens" if bill.bought else "what an hour costs is not known"
        )
        return (
            f"{told}: no price is known of GPUs of type {', '.join(unknown)}, so next to nothing counts for them; give "
            "gpu_prices in the cluster's file, or --gpu-usd-per-hour"
        )
    parts = f": {gpus:,.2f} for GPUs, {bought:,.2f} for bought tokens" if bill.bought else ", all for GPUs"
    budget = "" if plan.budget_usd_per_hour is None else f" of {plan.budget_usd_per_hour:,.2f}"
    text = f"an hour costs {gpus + bought:,.2f}{budget} USD{parts}"
    if bill.usd_per_million_tokens is not None:
        text += f"; a million tokens of this mix {bill.usd_per_million_tokens:,.3g} USD"
    worth_usd = plan.settings.get("success_usd") or (SUCCESS_USD if plan.budget_usd_per_hour is None else None)
    if worth_usd and plan.settings.get("gpu_price") is None:
        text += f"; one more good answer counts as {worth_usd:g} USD (--success-usd)"
    if bill.idle_usd_per_hour:
        text += f"\nGPUs that hold nothing cost {bill.idle_usd_per_hour:,.2f} USD an hour more, if they are kept"
    return text


def models_table(plan: Plan) -> Table:
    """Replicas, requests and load of every model."""
    table = Table(title="Models", box=SIMPLE)
    for heading in ("model", "replicas", "requests", "slots", "tokens/s", "capacity", "utilisation"):
        table.add_column(heading, justify="left" if heading in ("model", "replicas") else "right")
    colour = _colours(plan)
    bought = {spec.name for spec in plan.models if spec.quota is not None}
    for load in plan.loads:
        own = [f"{n} x {_where(r)}" for r, n in sorted(plan.counts.items()) if r.model == load.model]
        if load.model in bought:
            own = ["from outside"]
        table.add_row(
            Text(load.model, colour[load.model]),
            "\n".join(own) or "-",
            f"{load.share:.1%}",
            str(load.slots),
            f"{load.tokens_per_s:,.0f}",
            "-" if load.capacity_tokens_per_s is None else f"{load.capacity_tokens_per_s:,.0f}",
            f"{load.utilisation:.0%}" if load.capacity_tokens_per_s else "-",
        )
    return table


def picture(plan: Plan) -> RenderableType:
    """Every node as a panel with its GPUs as bars, coloured by model; equally filled nodes are drawn once."""
    colour = _colours(plan)
    drawn: dict[tuple[object, ...], list[Node]] = {}
    by_node: dict[str, list[PlacedReplica]] = {node.name: [] for node in plan.cluster.nodes}
    for placed in plan.placements:
        by_node[placed.node].append(placed)
    for node in plan.cluster.nodes:
        content = tuple(sorted((p.gpus, p.replica) for p in by_node[node.name]))
        drawn.setdefault((node.gpu_type, node.n_gpus, content), []).append(node)
    return Group(*(_node(nodes, by_node[nodes[0].name], colour) for nodes in drawn.values()))


def latencies_table(plan: Plan) -> Table:
    """What requests can expect at the planned rate."""
    share = f"{plan.latencies[0].percentile:.0%}"
    table = Table(title=f"{share} of the requests are not later than", box=SIMPLE)
    for heading in ("model", "first token s", "each token s", "whole answer s", "at once"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for one in plan.latencies:
        times = (one.first_token_s, one.token_s, one.total_s, one.at_once)
        table.add_row(one.model, *("no end" if time is None else f"{time:.3g}" for time in times))
    return table


def assessments_table(plan: Plan) -> Table:
    """Held-out requests at the planned load and more."""
    table = Table(title="Held-out requests", box=SIMPLE)
    for heading in ("load", "success", "refused", "USD a request"):
        table.add_column(heading, justify="right")
    for one in plan.assessments:
        table.add_row(f"{one.load:g} x", f"{one.quality:.4f}", f"{one.refused:.1%}", f"{one.cost_usd:.4g}")
    return table


def bill_table(bill: Bill) -> Table:
    """What an hour costs, by type and price of GPUs and by bought model."""
    table = Table(title="USD an hour", box=SIMPLE)
    for heading in ("", "price", "in use", "idle", "USD an hour"):
        table.add_column(heading, justify="left" if heading in ("", "price") else "right")
    for cost in bill.gpus:
        price = "not known" if cost.price is None else f"{cost.price.kind} {cost.price.usd_per_hour:.4g} USD"
        usd = "-" if cost.usd_per_hour is None else f"{cost.usd_per_hour:,.2f}"
        table.add_row(cost.gpu_type, price, str(cost.used), str(cost.idle), usd)
    for bought in bill.bought:
        table.add_row(bought.model, "tokens", "", "", f"{bought.usd_per_hour:,.2f}")
    return table


def trades_table(trades: tuple[Trade, ...]) -> Table:
    """What a GPU more or less of each type would change."""
    table = Table(title="A GPU more, a GPU less", box=SIMPLE)
    for heading in ("GPUs", "success, points", "USD an hour"):
        table.add_column(heading, justify="left" if heading == "GPUs" else "right")
    for trade in trades:
        usd = "-" if trade.usd_per_hour is None else f"{trade.usd_per_hour:+,.2f}"
        change = (f"{100 * trade.success:+.2f}", usd) if trade.possible else ("no plan", "-")
        kind = "" if trade.price is None else f" ({trade.price.kind})"
        table.add_row(f"{trade.more:+d} {trade.gpu_type}{kind}", *change)
    return table


def bounds_table(plan: Plan) -> Table:
    """Autoscaling bounds beside what is placed."""
    table = Table(title="Autoscaling", box=SIMPLE)
    for heading in ("replica", "least", "planned", "most"):
        table.add_column(heading, justify="left" if heading == "replica" else "right")
    for bound in plan.bounds:
        planned = str(plan.counts[bound.replica])
        table.add_row(str(bound.replica), str(bound.min_replicas), planned, str(bound.max_replicas))
    return table


def moves_table(moves: Moves) -> Table:
    """What to stop and to start."""
    table = Table(title=f"{len(moves.stopped)} to stop, {len(moves.started)} to start", box=SIMPLE)
    for heading in ("", "replica", "node", "GPUs"):
        table.add_column(heading)
    for word, replicas in (("stop", moves.stopped), ("start", moves.started)):
        for one in replicas:
            table.add_row(word, str(one.replica), one.node, ", ".join(map(str, one.gpus)))
    return table


def _where(replica: object) -> str:
    return str(replica).split(" on ", 1)[1]


def _colours(plan: Plan) -> dict[str, str]:
    return {model.name: _COLOURS[i % len(_COLOURS)] for i, model in enumerate(plan.models)}


def _node(nodes: list[Node], placed: list[PlacedReplica], colour: dict[str, str]) -> RenderableType:
    node = nodes[0]
    names = node.name if len(nodes) == 1 else f"{node.name} ... {nodes[-1].name} ({len(nodes)} alike)"
    title = f"{names}: {node.n_gpus} x {node.gpu_type}"
    if not placed:
        return Panel.fit(Text("nothing", "dim"), title=title, title_align="left")
    grid = Table.grid(padding=(0, 2))
    for first in range(0, node.n_gpus, _GPUS_A_LINE):
        gpus = range(first, min(first + _GPUS_A_LINE, node.n_gpus))
        grid.add_row(*(_gpu(gpu, [p for p in placed if gpu in p.gpus], colour) for gpu in gpus))
    return Panel.fit(grid, title=title, title_align="left")


def _gpu(number: int, placed: list[PlacedReplica], colour: dict[str, str]) -> Text:
    """A bar as long as what is taken, and a line for each kind of replica."""
    text = Text(f"{number} ")
    taken = 0
    for one in placed:
        before, taken = taken, taken + one.replica.units
        width = round(_GPU_WIDTH * taken / SHARE_UNITS) - round(_GPU_WIDTH * before / SHARE_UNITS)
        text.append("█" * max(width - 1, 0) + ("▌" if width else ""), colour[one.replica.model])
    text.append(_FREE * (_GPU_WIDTH - round(_GPU_WIDTH * taken / SHARE_UNITS)), "dim")
    for replica, times in Counter(one.replica for one in placed).items():
        share = f"1 of {replica.tensor_parallel} GPUs" if replica.tensor_parallel > 1 else f"{replica.gpu_fraction:g}"
        text.append(f"\n  {times} x " if times > 1 else "\n  ")
        text.append(replica.model, colour[replica.model])
        text.append(f" {share}")
    return text
