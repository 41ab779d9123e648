"""The bill of a plan, and what a GPU more or less would change, by planning again."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from apportion.allocation.bill import Bill, BoughtCost, GpuCost, Trade
from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpu_prices import GpuKind
from apportion.allocation.optimise import Optimum, optimise
from apportion.allocation.problem import HOUR_S, AllocationProblem
from apportion.allocation.program import gpus_by_class
from apportion.router.errors import DeadlineError, InfeasibleError

# Plans that differ by one GPU are told apart by less than a plan for use needs.
TRADE_GAP = 1e-4


def bill_of(problem: AllocationProblem, optimum: Optimum) -> Bill:
    """What the replicas' GPUs and the bought tokens cost."""
    used = Counter[GpuKind]()
    for c, number in gpus_by_class(optimum.counts, optimum.gpus).items():
        used[optimum.packings[c].node_class.kind] += number
    there = Counter[GpuKind]()
    for node in problem.cluster.nodes:
        there[node.gpu_type, node.price] += node.n_gpus
    bought = (problem.bought_usd_per_hour * optimum.x).sum(axis=0)
    tokens = float(problem.share @ (problem.all_tokens * optimum.x).sum(axis=1))
    return Bill(
        gpus=tuple(GpuCost(*kind, used[kind], number - used[kind]) for kind, number in there.items()),
        bought=tuple(
            BoughtCost(spec.name, float(bought[j])) for j, spec in enumerate(problem.models) if spec.quota is not None
        ),
        tokens_per_hour=HOUR_S * problem.rate_per_s * tokens,
    )


def trades(problem: AllocationProblem, optimum: Optimum, gap: float, time_limit_s: float) -> tuple[Trade, ...]:
    """A GPU more and a GPU less of every type and price, with as many of the others at most; as the time suffices.

    A budget per hour moves by the GPU's price, so that the money for bought tokens stays what it is. A GPU more than
    the cluster has stands on a node of its own.
    """
    deadline = time.perf_counter() + time_limit_s
    bill = bill_of(problem, optimum)
    found = []
    for cost in bill.gpus:
        step = min((r.tensor_parallel for r in problem.replicas if r.gpu_type == cost.gpu_type), default=0)
        for more in (-step, step) if step else ():
            left = deadline - time.perf_counter()
            if cost.used + more < 0 or left <= 0:
                continue
            changed = _with(problem, bill, cost, more)
            try:
                other = optimise(changed, gap=min(gap, TRADE_GAP), time_limit_s=left)
            except InfeasibleError:
                found.append(Trade(cost.gpu_type, cost.price, more, possible=False))
            except DeadlineError:
                continue
            else:
                found.append(_trade(cost, more, other.quality - optimum.quality, bill, bill_of(changed, other)))
    return tuple(found)


def _trade(cost: GpuCost, more: int, success: float, before: Bill, after: Bill) -> Trade:
    usd = (before.usd_per_hour, after.usd_per_hour)
    change = None if usd[0] is None or usd[1] is None else usd[1] - usd[0]
    return Trade(cost.gpu_type, cost.price, more, success=success, usd_per_hour=change)


def _with(problem: AllocationProblem, bill: Bill, cost: GpuCost, more: int) -> AllocationProblem:
    """The problem with so many more of these GPUs in use, and at most as many of the others as now."""
    limits = {(other.gpu_type, other.price): (0, other.used) for other in bill.gpus}
    limits[cost.gpu_type, cost.price] = (cost.used + more, cost.used + more)
    cluster = problem.cluster
    if more > cost.idle:
        extra = Node(f"{cluster.nodes[0].name}+", cost.gpu_type, more, cost.price)
        cluster = Cluster((*cluster.nodes, extra), cluster.gpu_types)
    required = problem.requirements
    usd = required.budget_usd_per_hour + more * (0.0 if cost.price is None else cost.price.usd_per_hour)
    changed = replace(required, gpus=limits, running={}, move_price=0.0, budget_usd_per_hour=max(usd, 0.0))
    return replace(problem, cluster=cluster, requirements=changed)
