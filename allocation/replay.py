"""A workload as the plan's service would see it: when requests come, and the rule by which it assigns them."""

from __future__ import annotations

import numpy as np

from apportion.allocation.plan import Plan
from apportion.allocation.simulate import REFUSED, WAITS, Routed, poisson_arrivals
from apportion.allocation.workload import Workload
from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import assign, first_in_line, largest_feasible_subset, strategy_from
from apportion.router.assignment.problem import BatchProblem
from apportion.router.errors import InvalidRequestError

GAP = 1e-3
# What a budget may have saved, in requests: after quiet times no more than this is there for dear ones.
_SAVED_REQUESTS = 100


class Rule:
    """What the service does with a batch: seats those in front where slots are short, refuses what the money cannot
    pay for, and gives the rest to the models on which together they are best, by what is free of each at that moment.

    What earlier batches left of the plan's mean cost of a request is there for later ones.
    """

    def __init__(self, plan: Plan, workload: Workload, rows: IntArray) -> None:
        """rows: of the workload, for each request."""
        self._estimates, self._rows = workload.estimates, rows
        self._allowed, self._answers = workload.allowed(plan.models), workload.answers
        self._strategy = strategy_from("mip", gap=GAP)
        self._budget_usd = np.inf if plan.budget_usd is None else plan.budget_usd
        self._saved_usd = self._budget_usd * min(_SAVED_REQUESTS, plan.batch_size)

    def choose(self, requests: IntArray, free: IntArray, slots: IntArray) -> IntArray:
        """(n,) model of each request, WAITS, or REFUSED; free and slots: (n_models,) sequences of each."""
        rows = self._rows[requests]
        chosen = np.full(len(rows), WAITS)
        chosen[~self._allowed[rows].any(axis=1)] = REFUSED
        kept = np.flatnonzero(first_in_line(self._problem(rows, free, slots)))
        if len(kept):
            chosen[kept] = self._assigned(self._problem(rows[kept], free, slots))
            self._pay(rows, chosen)
        return chosen

    def _assigned(self, problem: BatchProblem) -> IntArray:
        """Models of requests that there are slots for."""
        success = problem.success if problem.allowed is None else np.where(problem.allowed, problem.success, -np.inf)
        best = np.where(problem.slots > 0, success, -np.inf).argmax(axis=1)
        taken = np.bincount(best, weights=problem.load, minlength=problem.n_models)
        spent = problem.cost_usd[np.arange(problem.n_requests), best].sum()
        if (taken <= problem.slots).all() and spent <= problem.budget_usd:
            return np.asarray(best, np.int64)  # nobody stands in another's way
        pays = np.ones(problem.n_requests, np.bool_)
        if not np.isinf(problem.budget_usd):
            pays = largest_feasible_subset(problem)
        chosen = np.full(problem.n_requests, REFUSED)
        if pays.any():
            answer = assign(problem.subset(pays), self._strategy)
            chosen[pays] = np.where(answer.model < 0, WAITS, answer.model)
        return chosen

    def _problem(self, rows: IntArray, free: IntArray, slots: IntArray) -> BatchProblem:
        # A request of more answers than any model has slots runs alone there, and its engine queues the rest.
        return self._estimates.rows(rows).problem(
            free,
            self._saved_usd + self._budget_usd * len(rows),
            allowed=self._allowed[rows],
            sequences=np.minimum(self._answers[rows], slots.max()),
            with_samples=False,
        )

    def _pay(self, rows: IntArray, chosen: IntArray) -> None:
        if np.isinf(self._budget_usd):
            return
        seated = chosen >= 0
        spent = float(self._estimates.cost_usd[rows[seated], chosen[seated]].sum())
        brought = self._budget_usd * int((chosen != WAITS).sum())
        self._saved_usd = min(self._saved_usd + brought - spent, self._budget_usd * _SAVED_REQUESTS)


def replay(
    plan: Plan,
    workload: Workload,
    *,
    load: float = 1.0,
    requests: int | None = None,
    patience_s: float = np.inf,
    seed: int = 0,
) -> Routed:
    """The traffic of a workload whose models are the plan's, in that order.

    Args:
        load: times the plan's rate; recorded arrival times are compressed alike.
        requests: drawn from the workload with Poisson arrivals; None: each once, at its recorded time if it has one.
        patience_s: a request that has found no free slot for so long is refused.

    Raises:
        InvalidRequestError: the workload is of other models, the load is not above 0, or no model runs here.
    """
    names = tuple(model.name for model in plan.models)
    if workload.models != names:
        raise InvalidRequestError(
            f"models: the workload is of {', '.join(workload.models)}, the plan of {', '.join(names)}; "
            "give those of the plan"
        )
    if not load > 0:
        raise InvalidRequestError(f"load: {load:g} times the plan's rate is no traffic; give a number above 0")
    if not plan.placements and any(spec.quota is not None for spec in plan.models):
        raise InvalidRequestError("plan: all requests go to models from outside, whose speed nobody here knows")
    rate_per_s = plan.rate_per_s * load
    arrival_s: FloatArray | None = workload.at_rate(rate_per_s).arrival_s
    rows = np.arange(len(workload))
    if requests is not None or arrival_s is None:
        rng = np.random.default_rng(seed)
        rows = rng.permutation(rows) if requests is None else rng.integers(0, len(workload), requests)
        arrival_s = poisson_arrivals(len(rows), rate_per_s, seed)
    estimates = workload.estimates
    return Routed(
        input_tokens=estimates.input_tokens[rows],
        output_tokens=np.maximum(np.round(estimates.output_tokens[rows]), 1.0),
        arrival_s=arrival_s,
        answers=workload.answers[rows],
        choose=Rule(plan, workload, rows).choose,
        patience_s=patience_s,
    )
