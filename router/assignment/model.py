"""The batch problem as a Pyomo model, readable as the maths.

    max   sum_ij value[i,j] x[i,j]                              (quality)
    s.t.  sum_ij cost_usd[i,j] x[i,j]        <= budget_usd      (budget)
          sum_ij sequences[i,j] x[i,j]       <= slots[e]        (slots[e])      over the models j of engine e
          sum_ij use[k][i,j] x[i,j]          <= at_most[k]      (limits[k])
          sum_j  x[i,j]                       = 1               (one_model[i])
          x binary; pairs that are not allowed have no variable

The rows of budget and limits are divided by their largest coefficient. A user's own rows are added to the same model:
see `Rows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.highs import PyomoModel, solve_model
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program, Row

# Called with the model, the batch and the (n_pairs, 2) request and model of every variable `model.x[i, j]`.
Rows: TypeAlias = Callable[[PyomoModel, BatchProblem, IntArray], None]


def full_model(problem: BatchProblem, rows: tuple[Rows, ...] = ()) -> PyomoModel:
    """The whole batch problem as one Pyomo model: every allowed pair is a variable."""
    program = Program.of(problem)
    keep = np.isfinite(program.value)
    model = batch_model(program, keep)
    for add in rows:
        add(model, problem, np.argwhere(keep))
    return model


def batch_model(program: Program, keep: BoolArray, *, offset: float = 0.0, start: IntArray | None = None) -> PyomoModel:
    """The program restricted to the pairs in `keep` (n_requests, n_models), as a Pyomo model.

    Requests without any kept pair get no variable and no row; `offset` is what they already contribute to the
    objective. `start` (n_requests,) gives the variables their initial values.
    """
    import pyomo.environ as pyo
    from pyomo.core.expr import LinearExpression

    request, choice = np.nonzero(keep)
    pairs = list(zip(request.tolist(), choice.tolist(), strict=True))
    model = pyo.ConcreteModel()
    model.x = pyo.Var(pairs, domain=pyo.Binary)
    x = list(model.x.values())
    if start is not None:
        for variable, on in zip(x, (start[request] == choice).tolist(), strict=True):
            variable.set_value(float(on), skip_validation=True)

    def total(coefficients: FloatArray, members: IntArray) -> Any:
        chosen = [x[k] for k in members.tolist()]
        return LinearExpression(linear_coefs=coefficients[members].tolist(), linear_vars=chosen)

    everything = np.arange(len(pairs))
    value, load, engine = program.value[request, choice], program.load_of(request, choice), program.engine_of[choice]
    model.quality = pyo.Objective(expr=total(value, everything) + offset, sense=pyo.maximize)

    def within(row: Row) -> tuple[None, Any, float]:
        # HiGHS takes rows as kept within an absolute tolerance, so money is counted in dearest pairs.
        use = row.use[request, choice]
        unit = float(use.max(initial=0.0)) or 1.0
        return None, total(use / unit, everything), row.at_most / unit

    if math.isfinite(program.budget):
        model.budget = pyo.Constraint(expr=within(program.rows[0]))
    model.limits = pyo.Constraint(range(len(program.limits)), rule=lambda _, k: within(program.limits[k]))
    of_engine = {
        e: members
        for e in range(program.n_engines)
        if load[members := np.flatnonzero(engine == e)].sum() > program.slots[e]
    }
    model.slots = pyo.Constraint(list(of_engine), rule=lambda _, e: (None, total(load, of_engine[e]), program.slots[e]))
    present, first = np.unique(request, return_index=True)
    of_request = dict(zip(present.tolist(), np.split(everything, first[1:]), strict=True))
    ones = np.ones(len(pairs))
    model.one_model = pyo.Constraint(list(of_request), rule=lambda _, i: (1, total(ones, of_request[i]), 1))
    return model


def warm_up() -> None:
    """Load Pyomo and HiGHS now, so that the first batch does not pay a second for importing them."""
    two = np.full((2, 2), 0.5)
    solve_model(batch_model(Program(two, two, np.ones(2), np.ones(2), 10.0), np.ones((2, 2), np.bool_)))
