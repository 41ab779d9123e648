"""Batches to time a solver on, and the ways to solve one: the certified solver and full models."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.assignment import BatchProblem, Mip, Prices, assign, full_model, solve_model
from apportion.router.assignment.model import MIP_ABSOLUTE_GAP, quiet_highs

GAP = 1e-4
LIMITS = {"budget": (0.4, 100.0), "budget and slots": (0.4, 1.3), "slots": (np.inf, 1.05)}


def batch(n: int, m: int, limits: str, seed: int) -> BatchProblem:
    """Requests of varying difficulty, models of rising skill and price, answers of varying length.

    The budget lies 40 % of the way from the cheapest to the best choice; slots are a multiple of an even share.
    """
    rng = np.random.default_rng([seed, n, m])
    skill, difficulty = np.linspace(-0.5, 2.0, m), rng.normal(0, 1.3, (n, 1))
    success = 1 / (1 + np.exp(difficulty - skill - rng.normal(0, 0.8, (n, m))))
    price = np.geomspace(0.1, 10, m) * 1e-6
    cost = price * rng.lognormal(5.5, 0.7, (n, 1)) * rng.lognormal(0, 0.3, (n, m))
    budget_share, slots_share = LIMITS[limits]
    cheapest, best = cost.min(axis=1).sum(), cost[np.arange(n), success.argmax(axis=1)].sum()
    budget = cheapest + budget_share * (best - cheapest) if np.isfinite(budget_share) else np.inf
    slots = np.full(m, int(np.ceil(n / m * slots_share)))
    return BatchProblem(success, cost, slots, float(budget))


@dataclass(frozen=True)
class Answer:
    """gap: proved, relative, inf without an answer; finished: within the asked gap before the time limit."""

    objective: float
    gap: float
    finished: bool
    prices: Prices | None = None


@dataclass(frozen=True)
class Timed:
    """One solve: wall and CPU seconds, and MiB that it took beyond what was there before (NaN = not measured)."""

    answer: Answer
    wall_s: float
    cpu_s: float
    extra_mib: float = float("nan")


Solve = Callable[[BatchProblem, float], Answer]
"""From a batch and a time limit to its answer."""


def certified(problem: BatchProblem, warm: Prices | None = None) -> Answer:
    """The certified solver, without a time limit."""
    answer = assign(problem, Mip(gap=GAP), warm=warm)
    if not answer.feasible:
        raise RuntimeError(f"{problem.success.shape} has no answer: {answer.infeasibility}")
    return Answer(answer.objective, answer.gap, answer.gap <= GAP, answer.prices)


def pyomo_full(problem: BatchProblem, time_limit_s: float) -> Answer:
    """The whole batch as one Pyomo model through HiGHS, one thread."""
    solution = solve_model(full_model(problem), gap=GAP, time_limit_s=time_limit_s)
    return _answer(solution.objective, solution.bound, not solution.timed_out)


def highs_full(problem: BatchProblem, time_limit_s: float) -> Answer:
    """The whole batch as arrays to HiGHS, without Pyomo, one thread."""
    import highspy

    solver = quiet_highs(time_limit_s)
    solver.setOptionValue("mip_rel_gap", GAP)
    solver.setOptionValue("mip_abs_gap", MIP_ABSOLUTE_GAP)
    solver.passModel(_arrays(problem))
    solver.run()
    info = solver.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    timed_out = solver.getModelStatus() == highspy.HighsModelStatus.kTimeLimit
    return _answer(-info.objective_function_value if found else -np.inf, -info.mip_dual_bound, not timed_out)


def _arrays(problem: BatchProblem) -> Any:
    """Rows: one a request, one a model, and the budget; columns: pairs, request by request."""
    import highspy

    n, m = problem.success.shape
    budget = int(np.isfinite(problem.budget_usd))
    unit = float(problem.cost_usd.max()) or 1.0
    columns = np.arange(n * m)
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = n * m, n + m + budget
    program.col_cost_ = -problem.success.ravel()
    program.col_lower_, program.col_upper_ = np.zeros(n * m), np.ones(n * m)
    program.integrality_ = [highspy.HighsVarType.kInteger] * (n * m)
    program.row_lower_ = np.concatenate([np.ones(n), np.full(m + budget, -np.inf)])
    program.row_upper_ = np.concatenate([np.ones(n), problem.slots, [problem.budget_usd / unit] * budget])
    index = [columns // m, n + columns % m, np.full(n * m, n + m)][: 2 + budget]
    value = [np.ones(n * m), np.ones(n * m), problem.cost_usd.ravel() / unit][: 2 + budget]
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = (np.arange(n * m + 1) * (2 + budget)).astype(np.int32)
    program.a_matrix_.index_ = np.stack(index, axis=1).ravel().astype(np.int32)
    program.a_matrix_.value_ = np.stack(value, axis=1).ravel()
    return program


def _answer(objective: float, bound: float, finished: bool) -> Answer:
    gap = max(bound - objective, 0.0) / abs(objective) if np.isfinite(objective) else np.inf
    return Answer(objective, gap, finished)


FULL: dict[str, Solve] = {"full Pyomo": pyomo_full, "full HiGHS": highs_full}


def timed(solve: Callable[[], Answer]) -> Timed:
    """Time one solve in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = solve()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Timed(answer, wall, cpu)


def apart(solve: Callable[[], Answer], most_s: float = float("inf")) -> Timed:
    """Time one solve in a forked child, whose peak memory above what it started with is its own.

    most_s: when the child is ended, since a solver may look at its own limit too seldom; it then has no answer.
    Raises RuntimeError when the child ends without an answer by itself.
    """
    read, write = os.pipe()
    started, before = time.perf_counter(), _peak_mib()
    child = os.fork()
    if child == 0:
        _in_child(solve, write)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        late = not select.select([stream], [], [], None if most_s == float("inf") else most_s)[0]
        if late:
            os.kill(child, signal.SIGKILL)
        found = stream.read()
    _, _, used = os.wait4(child, 0)
    if late:
        no_answer = Answer(float("-inf"), float("inf"), finished=False)
        cpu_s, extra_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024 - before
        return Timed(no_answer, time.perf_counter() - started, cpu_s, max(extra_mib, 0.0))
    if not found:
        raise RuntimeError("a solve ended without an answer: it may have run out of memory")
    result: Timed = pickle.loads(found)
    return result


def _in_child(solve: Callable[[], Answer], write: int) -> None:
    try:
        _forget_peak()
        before = _own_peak_mib()
        once = timed(solve)
        extra = Timed(once.answer, once.wall_s, once.cpu_s, _own_peak_mib() - before)
        with os.fdopen(write, "wb") as stream:
            pickle.dump(extra, stream)
    finally:
        os._exit(0)


def _forget_peak() -> None:
    """A forked child begins with its parent's peak; the kernel sets it to what it has now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _own_peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
