"""The bridge from Pyomo to HiGHS: any linear model, solved on one thread.

The model is compiled by Pyomo to sparse matrices and passed to HiGHS as arrays: Pyomo's own HiGHS interfaces add one
call per variable and row, which takes longer than solving a small model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.errors import ConfigurationError

# Pyomo ships no type information, so a model is Any.
PyomoModel: TypeAlias = Any

# HiGHS's own 1e-6 would end a search before a small relative gap is reached.
MIP_ABSOLUTE_GAP = 1e-9


@dataclass(frozen=True, eq=False)
class ModelSolution:
    """values: of the variables that were asked for, None when HiGHS found none; bound: proved upper bound."""

    values: FloatArray | None
    objective: float
    bound: float
    infeasible: bool
    timed_out: bool


def solve_model(
    model: PyomoModel,
    *,
    gap: float = 1e-4,
    time_limit_s: float | None = None,
    target: float | None = None,
    max_nodes: int | None = None,
    restarts: bool = True,
    variables: Sequence[Any] | None = None,
) -> ModelSolution:
    """Hand a linear Pyomo model with the variables `model.x`, to be maximised, to HiGHS on one thread.

    Values that all variables already have are the solver's start.

    Args:
        gap: relative gap at which to stop.
        target: objective at which any answer is good enough.
        max_nodes: most branch-and-bound nodes.
        restarts: whether the solver may begin its search anew.
        variables: those to read in place of `model.x`.

    Raises:
        ConfigurationError: the model is not linear; a user's row may have made it so.
    """
    import highspy
    from pyomo.common.errors import InfeasibleConstraintException
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    try:
        form = LinearStandardFormCompiler().write(model, mixed_form=True)
    except InfeasibleConstraintException:  # a row without free variables that does not hold
        return ModelSolution(None, -math.inf, -math.inf, infeasible=True, timed_out=False)
    except (ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"rows: one that was added to the model is not linear ({error}); write it as a linear one"
        ) from error
    program = highspy.HighsLp()
    _fill_columns(program, form)
    _fill_rows(program, form)
    solver = quiet_highs(time_limit_s)
    solver.setOptionValue("mip_rel_gap", gap)
    solver.setOptionValue("mip_abs_gap", MIP_ABSOLUTE_GAP)
    if target is not None:
        solver.setOptionValue("objective_target", -target)
    if max_nodes is not None:
        solver.setOptionValue("mip_max_nodes", max_nodes)
    solver.setOptionValue("mip_allow_restart", restarts)
    solver.passModel(program)
    _pass_start(solver, form)
    solver.run()
    return _read(solver, form, list(model.x.values()) if variables is None else variables)


def quiet_highs(time_limit_s: float | None = None) -> Any:
    """A HiGHS instance that prints nothing and uses one thread."""
    import highspy

    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    for tolerance in ("primal_feasibility_tolerance", "mip_feasibility_tolerance"):
        solver.setOptionValue(tolerance, 1e-9)
    if time_limit_s is not None:
        solver.setOptionValue("time_limit", max(time_limit_s, 1e-3))
    return solver


def _fill_columns(program: Any, form: Any) -> None:
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


def _pass_start(solver: Any, form: Any) -> None:
    import highspy

    start = [var.value for var in form.columns]
    if start and None not in start:
        solution = highspy.HighsSolution()
        solution.col_value = start
        solver.setSolution(solution)


def _read(solver: Any, form: Any, variables: Sequence[Any]) -> ModelSolution:
    import highspy

    status, info, kinds = solver.getModelStatus(), solver.getInfo(), highspy.HighsModelStatus
    infeasible = status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible)
    timed_out = status == kinds.kTimeLimit
    # The compiled objective is minimised.
    bound = -info.mip_dual_bound
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return ModelSolution(None, -math.inf, bound, infeasible, timed_out)
    by_id = dict(zip(map(id, form.columns), solver.getSolution().col_value, strict=True))
    # A variable that a user's row has fixed is no column.
    values = np.array([by_id.get(id(var), var.value if var.fixed else 0.0) for var in variables])
    return ModelSolution(values, -info.objective_function_value, bound, False, timed_out)
