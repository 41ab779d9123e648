"""A workload as the plan's service would see it: when requests come, and which model each of them is sent to."""

from __future__ import annotations

import numpy as np

from apportion.allocation.plan import Plan
from apportion.allocation.simulate import Traffic, poisson_arrivals
from apportion.allocation.workload import Workload
from apportion.router.arrays import IntArray
from apportion.router.assignment import assign, strategy_from
from apportion.router.errors import BudgetExceededError, InfeasibleError, InvalidRequestError

GAP = 1e-3


def replay(plan: Plan, workload: Workload, *, load: float = 1.0, requests: int | None = None, seed: int = 0) -> Traffic:
    """The traffic of a workload whose models are the plan's, in that order.

    Args:
        load: times the plan's rate; recorded arrival times are compressed alike.
        requests: drawn from the workload with Poisson arrivals; None: each once, at its recorded time if it has one.

    Raises:
        InfeasibleError, BudgetExceededError: a batch has no assignment within the plan's slots and budget.
        InvalidRequestError: the workload is of other models, or the load is not above 0.
    """
    names = tuple(model.name for model in plan.models)
    if workload.models != names:
        raise InvalidRequestError(
            f"models: the workload is of {', '.join(workload.models)}, the plan of {', '.join(names)}; "
            "give those of the plan"
        )
    if not load > 0:
        raise InvalidRequestError(f"load: {load:g} times the plan's rate is no traffic; give a number above 0")
    rate_per_s = plan.rate_per_s * load
    arrival_s = workload.at_rate(rate_per_s).arrival_s
    rows = np.arange(len(workload))
    if requests is not None or arrival_s is None:
        rng = np.random.default_rng(seed)
        rows = rng.permutation(rows) if requests is None else rng.integers(0, len(workload), requests)
        arrival_s = poisson_arrivals(len(rows), rate_per_s, seed)
    answers = workload.answers[rows]  # each takes a slot of its own, as an engine's sequences do
    rows, arrival_s = np.repeat(rows, answers), np.repeat(arrival_s, answers)
    model = route(plan, workload)[rows]
    estimates = workload.estimates
    return Traffic(
        model=model,
        input_tokens=estimates.input_tokens[rows, model],
        output_tokens=np.maximum(np.round(estimates.output_tokens[rows, model]), 1.0),
        arrival_s=arrival_s,
    )


def route(plan: Plan, workload: Workload) -> IntArray:
    """The model of each request, (n_requests,): batch by batch with all slots free, as the service assigns them.

    Raises:
        InfeasibleError, BudgetExceededError: as `replay`.
    """
    slots = np.zeros(len(plan.models), dtype=np.int64)
    columns = {model.name: column for column, model in enumerate(plan.models)}
    for placed in plan.placements:
        slots[columns[placed.replica.model]] += plan.profile(placed.replica).max_num_seqs
    size = min(plan.batch_size, int(slots.sum()))
    if size == 0:
        raise InfeasibleError("plan: has no replicas, so nothing can be replayed against it; plan again")
    strategy = strategy_from("mip", gap=GAP)
    chosen = np.zeros(len(workload), dtype=np.int64)
    allowed = workload.allowed(plan.models)
    for first in range(0, len(workload), size):
        rows = np.arange(first, min(first + size, len(workload)))
        problem = workload.estimates.rows(rows).problem(
            slots,
            np.inf if plan.budget_usd is None else plan.budget_usd * len(rows),
            allowed=allowed[rows],
            sequences=np.minimum(workload.answers[rows], slots.max()),
            with_samples=False,
        )
        answer = assign(problem, strategy)
        if answer.infeasibility is not None:
            kind = BudgetExceededError if answer.infeasibility.row == "budget" else InfeasibleError
            raise kind(f"requests {first} to {rows[-1]}: {answer.infeasibility.message}")
        chosen[rows] = answer.model
    return chosen
