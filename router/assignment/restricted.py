"""The linear relaxation on some columns: shifts away from the requests' base models.

Every request sits on its base model; a column is a shift of one request to another model, between 0 and 1.
Requests with one alternative need no row of their own, so that the program has hardly more rows than there
are limits, and simplex on it is fast whatever the batch size. Rows are elastic: shifts that cannot keep a
limit pay a penalty instead of being infeasible, and its prices then ask for the columns that help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.highs import quiet_highs
from apportion.router.assignment.outcome import Prices
from apportion.router.assignment.program import Program, picked

PENALTY = 1e4


@dataclass(frozen=True, eq=False)
class Relaxed:
    """request, target: (n_columns,) the shifts; share: (n_columns,) how much of each is taken.

    objective: of the relaxation, without penalties; missing: units by which limits are missed (scaled).
    """

    prices: Prices
    request: IntArray
    target: IntArray
    share: FloatArray
    objective: float
    missing: float


def solve_restricted(
    program: Program, base: IntArray, request: IntArray, target: IntArray, time_limit_s: float | None
) -> Relaxed | None:
    """Solve the relaxation over the shifts (request, target), sorted by request; None past the time limit."""
    import highspy

    n, slots = len(request), program.n_engines
    gain = program.value[request, target] - program.value[request, base[request]]
    worth = program.value_range
    extra, unit = _scaled(program, base, request, target)
    solver = quiet_highs(time_limit_s)
    solver.setOptionValue("presolve", "off")
    solver.passModel(_linear_program(program, base, request, target, gain / worth, extra, unit))
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    solution = solver.getSolution()
    dual = np.maximum(-np.array(solution.row_dual[: slots + len(unit)]), 0.0) * worth
    column = np.array(solution.col_value)
    share = np.clip(column[:n], 0.0, 1.0)
    return Relaxed(
        prices=Prices(float(dual[slots] / unit[0]), dual[:slots], dual[slots + 1 :] / unit[1:]),
        request=request,
        target=target,
        share=share,
        objective=program.worth(base) + float(gain @ share),
        missing=float(column[n:].sum()),
    )


def _scaled(
    program: Program, base: IntArray, request: IntArray, target: IntArray
) -> tuple[list[FloatArray], FloatArray]:
    """Of each of `program.rows` (n_columns,) what the shifts take more, at most 1 each, and (n_rows,) the units."""
    extra = [row.use[request, target] - row.use[request, base[request]] for row in program.rows]
    unit = np.array([max(float(np.abs(more).max(initial=0.0)), 1e-12) for more in extra])
    return [more / one for more, one in zip(extra, unit.tolist(), strict=True)], unit


def _linear_program(
    program: Program,
    base: IntArray,
    request: IntArray,
    target: IntArray,
    gain: FloatArray,
    extra: list[FloatArray],
    unit: FloatArray,
) -> Any:
    """Rows: slots of every engine, budget, limits, at most one shift for requests with several. Last columns: elastic.

    gain and extra are scaled to at most 1; `unit` are the scales of extra.
    """
    import highspy

    n, slots = len(request), program.n_engines
    m = slots + len(unit)
    home = base[request]
    source, sink = program.engine_of[home], program.engine_of[target]
    freed = taken = program.load_of(request, home)
    if program.load.ndim == 2:
        taken = program.load_of(request, target)
    several = np.flatnonzero(np.bincount(request, minlength=program.n_requests) > 1)
    row_of = np.full(program.n_requests, -1)
    row_of[several] = np.arange(len(several)) + m
    stays = source == sink
    rows = [np.full(n, slots + k) for k in range(len(unit))]
    index = np.column_stack([np.where(stays, -1, source), sink, *rows, row_of[request]])
    value = np.column_stack([-freed, np.where(stays, taken - freed, taken), *extra, np.ones(n)])
    present = index >= 0

    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n + m, m + len(several)
    lp.col_cost_ = np.concatenate([-gain, np.full(m, PENALTY)])
    lp.col_lower_ = np.zeros(n + m)
    lp.col_upper_ = np.concatenate([np.ones(n), np.full(m, np.inf)])
    lp.row_lower_ = np.full(lp.num_row_, -np.inf)
    room = [row.at_most - float(picked(row.use, base).sum()) for row in program.rows]
    lp.row_upper_ = np.concatenate([program.slots - program.use(base), room / unit, np.ones(len(several))])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    counts = np.concatenate([[0], present.sum(axis=1), np.ones(m, np.int64)])
    lp.a_matrix_.start_ = np.cumsum(counts).astype(np.int32)
    lp.a_matrix_.index_ = np.concatenate([index[present], np.arange(m)]).astype(np.int32)
    lp.a_matrix_.value_ = np.concatenate([value[present], np.full(m, -1.0)])
    return lp
