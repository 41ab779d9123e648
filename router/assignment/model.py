"""The batch problem as a Pyomo model, readable as the maths, and its solution by HiGHS.

    max   sum_ij value[i,j] x[i,j]                              (quality)
    s.t.  sum_ij cost_usd[i,j] x[i,j]        <= budget_usd      (budget)
          sum_i  sequences[i] x[i,j]         <= slots[j]        (slots[j])
          sum_j  x[i,j]                       = 1               (one_model[i])
          x binary; pairs that are not allowed have no variable

A user's own rows are added to the same model: see `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..errors import ConfigurationError
from .problem import BatchProblem, BoolArray, FloatArray, IntArray

# Pyomo ships no type information, so a model is Any.
PyomoModel: TypeAlias = Any
# Called with the model, the batch and the (n_pairs, 2) request and model of every variable `model.x[i, j]`.
Rows: TypeAlias = Callable[[PyomoModel, BatchProblem, IntArray], None]


@dataclass(frozen=True, eq=False)
class ModelSolution:
    """values: (n_pairs,) of `model.x` in its order, None when HiGHS found none; bound: proved upper bound."""

    values: FloatArray | None
    objective: float
    bound: float
    infeasible: bool
    timed_out: bool


def full_model(problem: BatchProblem, rows: tuple[Rows, ...] = ()) -> PyomoModel:
    """The whole batch problem as one Pyomo model: every allowed pair is a variable."""
    keep = np.ones(problem.success.shape, np.bool_) if problem.allowed is None else problem.allowed
    return batch_model(problem, keep, rows=rows)


def batch_model(
    problem: BatchProblem,
    keep: BoolArray,
    *,
    value: FloatArray | None = None,
    slots: IntArray | None = None,
    budget_usd: float | None = None,
    rows: tuple[Rows, ...] = (),
) -> PyomoModel:
    """The batch problem restricted to the pairs in `keep` (n_requests, n_models).

    Requests without any kept pair get no variable and no row. `value`, `slots` and `budget_usd` replace the
    problem's own where a caller has already fixed some requests.
    """
    import pyomo.environ as pyo
    from pyomo.core.expr import LinearExpression

    value = problem.value if value is None else value
    slots = problem.slots if slots is None else slots
    budget_usd = problem.budget_usd if budget_usd is None else budget_usd
    request, choice = np.nonzero(keep)
    pairs = list(zip(request.tolist(), choice.tolist(), strict=True))
    load = problem.load[request]

    model = pyo.ConcreteModel()
    model.x = pyo.Var(pairs, domain=pyo.Binary)
    x = list(model.x.values())

    def total(coefficients: FloatArray | IntArray, members: IntArray | slice) -> Any:
        chosen = x[members] if isinstance(members, slice) else [x[k] for k in members.tolist()]
        return LinearExpression(linear_coefs=coefficients[members].tolist(), linear_vars=chosen)

    everything = slice(None)
    model.quality = pyo.Objective(expr=total(value[request, choice], everything), sense=pyo.maximize)
    if np.isfinite(budget_usd):
        model.budget = pyo.Constraint(
            expr=(None, total(problem.cost_usd[request, choice], everything), budget_usd)
        )
    of_model = [np.flatnonzero(choice == j) for j in range(problem.n_models)]
    model.slots = pyo.Constraint(
        [j for j, members in enumerate(of_model) if load[members].sum() > slots[j]],
        rule=lambda _, j: (None, total(load, of_model[j]), int(slots[j])),
    )
    ones = np.ones(len(pairs))
    present, first = np.unique(request, return_index=True)
    span = dict(zip(present.tolist(), zip(first, [*first[1:], len(pairs)], strict=True), strict=True))
    model.one_model = pyo.Constraint(present.tolist(), rule=lambda _, i: (1, total(ones, slice(*span[i])), 1))
    for add in rows:
        add(model, problem, np.column_stack([request, choice]))
    return model


def solve_model(
    model: PyomoModel, *, gap: float = 1e-4, time_limit_s: float | None = None, relax: bool = False
) -> ModelSolution:
    """Hand a linear Pyomo model with the variables `model.x` to HiGHS on one thread.

    The model is compiled by Pyomo to sparse matrices and passed to HiGHS as arrays: Pyomo's HiGHS interfaces
    add one call per variable and row, which takes longer than solving a small core.
    Raises ConfigurationError if the model is not linear in `model.x` (a user's row may have made it so).
    """
    import highspy
    import pyomo.environ as pyo
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    try:
        form = LinearStandardFormCompiler().write(model, mixed_form=True)
    except (ValueError, RuntimeError) as error:
        raise ConfigurationError(f"Rows added to the batch model have to be linear: {error}") from error
    sense = 1.0 if next(model.component_data_objects(pyo.Objective, active=True)).is_minimizing() else -1.0
    program = highspy.HighsLp()
    _fill_columns(program, form, relax)
    _fill_rows(program, form)
    solver = quiet_highs(time_limit_s)
    solver.setOptionValue("mip_rel_gap", gap)
    solver.passModel(program)
    solver.run()
    return _read(solver, form, model, sense)


def quiet_highs(time_limit_s: float | None = None) -> Any:
    """A HiGHS instance that prints nothing and uses one thread."""
    import highspy

    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    if time_limit_s is not None:
        solver.setOptionValue("time_limit", max(time_limit_s, 1e-3))
    return solver


def warm_up() -> None:
    """Load Pyomo and HiGHS now, so that the first batch does not pay a second for importing them."""
    keep = np.ones((2, 2), np.bool_)
    problem = BatchProblem(np.full((2, 2), 0.5), np.ones((2, 2)), np.ones(2, np.int64), 10.0)
    solve_model(batch_model(problem, keep))


def _fill_columns(program: Any, form: Any, relax: bool) -> None:
    import highspy

    cost = np.zeros(len(form.columns))
    objective = form.c.tocoo()
    cost[objective.col] = objective.data
    bounds = np.array([var.bounds for var in form.columns], dtype=np.float64).reshape(-1, 2)
    program.num_col_ = len(form.columns)
    program.col_cost_ = cost
    program.offset_ = float(form.c_offset[0])
    program.col_lower_ = np.where(np.isnan(bounds[:, 0]), -np.inf, bounds[:, 0])
    program.col_upper_ = np.where(np.isnan(bounds[:, 1]), np.inf, bounds[:, 1])
    if not relax:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        program.integrality_ = [kinds[var.is_integer()] for var in form.columns]


def _fill_rows(program: Any, form: Any) -> None:
    import highspy

    # mixed_form marks every row by its kind: -1 is >=, 0 is =, 1 is <=.
    kind = np.array([row.bound_type for row in form.rows], dtype=np.int64)
    matrix = form.A.tocsr()
    program.num_row_ = len(kind)
    program.row_lower_ = np.where(kind == 1, -np.inf, form.rhs)
    program.row_upper_ = np.where(kind == -1, np.inf, form.rhs)
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = matrix.indptr.astype(np.int32)
    program.a_matrix_.index_ = matrix.indices.astype(np.int32)
    program.a_matrix_.value_ = matrix.data


def _read(solver: Any, form: Any, model: PyomoModel, sense: float) -> ModelSolution:
    import highspy

    status = solver.getModelStatus()
    info = solver.getInfo()
    kinds = highspy.HighsModelStatus
    infeasible = status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible)
    timed_out = status == kinds.kTimeLimit
    is_mip = any(var.is_integer() for var in form.columns) and bool(solver.getLp().integrality_)
    bound = info.mip_dual_bound if is_mip else info.objective_function_value
    if status == kinds.kOptimal and not is_mip:
        bound = info.objective_function_value
    elif timed_out and not is_mip:
        bound = -np.inf
    has_solution = info.primal_solution_status == 2
    if not has_solution:
        return ModelSolution(None, -np.inf, sense * bound, infeasible, timed_out)
    by_id = dict(zip(map(id, form.columns), solver.getSolution().col_value, strict=True))
    values = np.array([by_id.get(id(var), 0.0) for var in model.x.values()])
    return ModelSolution(values, sense * info.objective_function_value, sense * bound, False, timed_out)
