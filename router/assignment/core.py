"""The exact part: which pairs a better answer can contain, and the Pyomo model on those alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.highs import ModelSolution, solve_model
from apportion.router.assignment.model import batch_model
from apportion.router.assignment.program import Program, picked

MAX_NODES = 200


def certified(regret: FloatArray, slack: float) -> BoolArray:
    """Pairs that an answer better than the incumbent can contain.

    At any prices >= 0 an answer with the pair (i, j) is worth at most bound - regret[i, j], where regret is
    the best reduced value of request i less the reduced value of the pair. So with slack = bound - incumbent,
    a pair of larger regret is in no better answer.
    """
    keep: BoolArray = np.isfinite(regret) & (regret <= slack)
    return keep


def nearest(regret: FloatArray, count: int) -> BoolArray:
    """About `count` pairs of least regret besides the best pair of every request."""
    flat = regret.ravel()
    wanted = min(count + len(regret), flat.size) - 1
    limit = np.partition(flat, wanted)[wanted]
    return certified(regret, limit)


def solve_core(
    program: Program,
    keep: BoolArray,
    incumbent: IntArray,
    *,
    gap: float,
    target: float | None,
    time_limit_s: float | None,
    exact: bool,
) -> tuple[IntArray | None, ModelSolution]:
    """Best assignment over the pairs in `keep`; the incumbent's pairs are kept as well.

    Requests with one pair left are fixed and leave the model. Not `exact`: give up after MAX_NODES nodes.
    """
    keep = keep.copy()
    keep[np.arange(program.n_requests), incumbent] = True
    fixed = keep.sum(axis=1) == 1
    model = np.where(fixed, keep.argmax(axis=1), -1)
    rest = dataclasses.replace(
        program,
        slots=program.slots - program.use(model),
        # What is fixed may take all of a limit and, by rounding, a little more.
        budget=max(program.budget - float(picked(program.cost, model).sum()), 0.0),
        limits=tuple(
            dataclasses.replace(limit, at_most=max(limit.at_most - float(picked(limit.use, model).sum()), 0.0))
            for limit in program.limits
        ),
    )
    keep[fixed] = False
    if not keep.any():
        worth = program.worth(model)
        return model, ModelSolution(np.zeros(0), worth, worth, infeasible=False, timed_out=False)
    pyomo_model = batch_model(rest, keep, offset=program.worth(model), start=incumbent)
    # What is left has been reduced already: starting anew with less cost a quarter of the time on real tables.
    solution = solve_model(
        pyomo_model, gap=gap, target=target, time_limit_s=time_limit_s, max_nodes=None if exact else MAX_NODES,
        restarts=False,
    )  # fmt: skip
    if solution.values is None:
        return None, solution
    on = solution.values > 0.5
    request, choice = np.nonzero(keep)
    model[request[on]] = choice[on]
    return model, solution
