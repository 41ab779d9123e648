"""Random batches of every kind, and the best answer of tiny ones by trying all."""

from __future__ import annotations

import itertools

import numpy as np

from apportion.router.assignment import BatchProblem

KINDS = (
    "plain", "loose", "tight_budget", "tight_slots", "both_tight", "ties", "equal_costs", "zero_costs",
    "forbidden", "sequences", "weights", "infeasible", "no_budget", "same_rows", "zero_slots",
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
        weight=rng.choice([0.0, 1.0, 5.0], n) if kind == "weights" else None,
    )  # fmt: skip


def every_choice(n: int, m: int) -> np.ndarray:
    """(m**n, n) all choices."""
    return np.array(list(itertools.product(range(m), repeat=n)), np.int64).reshape(-1, n)


def feasible_choices(problem: BatchProblem) -> np.ndarray:
    """(n_feasible, n_requests) all choices that keep every limit."""
    n, m = problem.success.shape
    choices = every_choice(n, m)
    rows = np.arange(n)
    keeps = problem.cost_usd[rows, choices].sum(axis=1) <= problem.budget_usd * (1 + 1e-9)
    for j in range(m):
        keeps &= ((choices == j) * problem.load).sum(axis=1) <= problem.slots[j]
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
