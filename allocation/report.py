"""A plan for people: the numbers, each model's load, and a picture of the GPUs with what sits where."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from apportion.allocation.cluster import Node
from apportion.allocation.near import Moves
from apportion.allocation.plan import PlacedReplica, Plan
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
    if plan.assessments:
        console.print(assessments_table(plan))
    if plan.bounds:
        console.print(bounds_table(plan))


def summary(plan: Plan) -> str:
    """Two lines: what it is expected to do, and how near to the best that is."""
    used = len({(p.node, g) for p in plan.placements for g in p.gpus})
    budget = "no budget" if plan.budget_usd is None else f"budget {plan.budget_usd:.4g}"
    return (
        f"{len(plan.placements)} replicas on {used} of {plan.cluster.n_gpus} GPUs for {plan.rate_per_s:.4g} requests/s "
        f"in batches of {plan.batch_size}\n"
        f"expected success {plan.expected_quality:.4f}, cost {plan.expected_cost_usd:.4g} USD a request ({budget}); "
        f"no plan is better by more than {plan.gap:.2%}"
    )


def models_table(plan: Plan) -> Table:
    """Replicas, requests and load of every model."""
    table = Table(title="Models", box=SIMPLE)
    for heading in ("model", "replicas", "requests", "slots", "tokens/s", "capacity", "utilisation"):
        table.add_column(heading, justify="left" if heading in ("model", "replicas") else "right")
    colour = _colours(plan)
    for load in plan.loads:
        own = [f"{n} x {_where(r)}" for r, n in sorted(plan.counts.items()) if r.model == load.model]
        table.add_row(
            Text(load.model, colour[load.model]),
            "\n".join(own) or "-",
            f"{load.share:.1%}",
            str(load.slots),
            f"{load.tokens_per_s:,.0f}",
            f"{load.capacity_tokens_per_s:,.0f}",
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


def assessments_table(plan: Plan) -> Table:
    """Held-out requests at the planned load and more."""
    table = Table(title="Held-out requests", box=SIMPLE)
    for heading in ("load", "success", "refused", "USD a request"):
        table.add_column(heading, justify="right")
    for one in plan.assessments:
        table.add_row(f"{one.load:g} x", f"{one.quality:.4f}", f"{one.refused:.1%}", f"{one.cost_usd:.4g}")
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
