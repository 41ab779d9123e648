"""Random batches of every kind, and the best answer of tiny ones by trying all."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from apportion.router.assignment import ENDLESS, BatchProblem, Limit

KINDS = (
    "plain", "loose", "tight_budget", "tight_slots", "both_tight", "ties", "equal_costs", "zero_costs",
    "forbidden", "sequences", "weights", "penalties", "infeasible", "no_budget", "same_rows", "zero_slots",
)  # fmt: skip


def random_batch(rng: np.random.Generator, kind: str, n: int, m: int) -> BatchProblem:
    """A batch of one of `KINDS` with n requests and m models."""
    success = rng.random((n, m))
    cost = rng.lognormal(0, 1, (n, m)) * np.geomspace(1, 20, m) * 10.0 ** rng.integers(-6, 2)
    if kind == "ties":
        success, cost = np.round(success * 4) / 4, np.round(cost / cost.max() * 4) + 1
    if kind == "equal_costs":
        cost[:] = cost[0, 0]
    if kind == "zero_costs":
        cost *= rng.random((n, m)) < 0.5
    if kind == "same_rows":
        success[:], cost[:] = success[0], cost[0]
    cheapest, dearest = cost.min(axis=1).sum(), cost.max(axis=1).sum()
    where = {"loose": 1.0, "tight_budget": 0.05, "both_tight": 0.1}.get(kind, rng.uniform(0, 1))
    budget = cheapest + where * (dearest - cheapest)
    slots = rng.integers(0, n + 1, m) + n // m
    if kind in ("tight_slots", "both_tight"):
        slots = rng.multinomial(n + 1, np.full(m, 1 / m))
    if kind == "loose":
        slots[:] = n
    if kind == "no_budget":
        budget = np.inf
    if kind == "infeasible":
        budget = cheapest * rng.uniform(0.5, 1.2)
        slots = rng.multinomial(max(n - rng.integers(0, 2), 0), np.full(m, 1 / m))
    if kind == "zero_slots":
        slots[rng.integers(m)] = 0
    sequences = rng.integers(1, 4, n) if kind == "sequences" else None
    return BatchProblem(
        success, cost, slots * (2 if kind == "sequences" else 1), float(budget),
        allowed=rng.random((n, m)) < 0.7 if kind == "forbidden" else None,
        sequences=sequences,
        weight=rng.choice([0.0, 1.0, 5.0], n) if kind in ("weights", "penalties") else None,
        penalty=rng.exponential(0.5, (n, m)) if kind == "penalties" else None,
    )  # fmt: skip


def shared_batch(rng: np.random.Generator, n: int, m: int) -> BatchProblem:
    """Models on shared engines, some of them endless, loads by model, and up to two limits, tight or out of reach."""
    engines = int(rng.integers(1, m + 1))
    success, cost = rng.random((n, m)), rng.lognormal(0, 1, (n, m))
    if rng.random() < 0.2:
        success, cost = np.round(success * 4) / 4, np.round(cost)
    cheapest, dearest = cost.min(axis=1).sum(), cost.max(axis=1).sum()
    budget = cheapest + rng.uniform(-0.02, 0.7) * (dearest - cheapest) if rng.random() < 0.7 else np.inf
    sequences = [None, rng.integers(1, 4, n), rng.integers(1, 4, (n, m))][rng.integers(3)]
    load = 1.0 if sequences is None else sequences.mean()
    slots = rng.multinomial(int(n * load * rng.uniform(0.9, 1.7)), np.full(engines, 1 / engines))
    if rng.random() < 0.3:
        slots[rng.integers(engines)] = ENDLESS
    limits = []
    for k in range(rng.integers(0, 3)):
        use = rng.random((n, m)) * (rng.random((n, m)) < 0.7) if rng.random() < 0.6 else np.rint(rng.random((n, m)))
        least, most = use.min(axis=1).sum(), use.max(axis=1).sum()
        limits.append(Limit(f"limit {k}", use, least + rng.uniform(0, 0.6) * (most - least)))
    return BatchProblem(
        success, cost, slots, max(float(budget), 0.0),
        allowed=rng.random((n, m)) < 0.8 if rng.random() < 0.2 else None, sequences=sequences,
        success_std=np.full((n, m), 0.1), cost_std_usd=0.2 * cost,
        row_of_column=rng.integers(0, engines, m), limits=tuple(limits),
    )  # fmt: skip


@cache
def every_choice(n: int, m: int) -> np.ndarray:
    """(m**n, n) all choices."""
    return np.array(list(itertools.product(range(m), repeat=n)), np.int64).reshape(-1, n)


def feasible_choices(problem: BatchProblem) -> np.ndarray:
    """(n_feasible, n_requests) all choices that keep every limit."""
    n, m = problem.success.shape
    choices = every_choice(n, m)
    rows = np.arange(n)
    keeps = problem.cost_usd[rows, choices].sum(axis=1) <= problem.budget_usd * (1 + 1e-9)
    load = problem.load[rows, choices] if problem.load.ndim == 2 else problem.load
    for engine in range(problem.n_engines):
        keeps &= ((problem.engine_of[choices] == engine) * load).sum(axis=1) <= problem.slots[engine]
    for limit in problem.limits:
        keeps &= limit.use[rows, choices].sum(axis=1) <= limit.at_most * (1 + 1e-9)
    if problem.allowed is not None:
        keeps &= problem.allowed[rows, choices].all(axis=1)
    return choices[keeps]


def best_by_trying(problem: BatchProblem) -> float | None:
    """The largest objective of any feasible choice, None if there is none."""
    choices = feasible_choices(problem)
    if not len(choices):
        return None
    return float(problem.value[np.arange(problem.n_requests), choices].sum(axis=1).max())


def most_by_trying(problem: BatchProblem) -> int:
    """The largest number of requests that can be placed together."""
    n = problem.n_requests
    for size in range(n, 0, -1):
        for chosen in itertools.combinations(range(n), size):
            if len(feasible_choices(problem.subset(np.array(chosen)))):
                return size
    return 0
