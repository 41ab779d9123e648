"""One batch through CP-SAT: run by the Python of an environment that has OR-Tools, which is all that it needs.

`python cp_sat_runner.py FILE`: FILE is an .npz with success, cost_usd (n_requests, n_models), slots (n_models,),
budget_usd, gap and time_limit_s; success and cost are rounded to 1e-6 of their largest. Prints one line of JSON:
`model` (n_requests,) or null, `gap` (null: unknown), `finished`, and wall and CPU seconds from arrays to answer.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from ortools.sat.python import cp_model


def main(file: str) -> None:
    """Solve and print."""
    with np.load(file) as given:
        success, cost_usd, slots = given["success"], given["cost_usd"], given["slots"]
        budget_usd, gap, time_limit_s = (float(given[name]) for name in ("budget_usd", "gap", "time_limit_s"))
    wall, cpu = time.perf_counter(), time.process_time()
    n, m = success.shape
    model = cp_model.CpModel()
    pairs = [[model.new_bool_var("") for _ in range(m)] for _ in range(n)]
    for row in pairs:
        model.add_exactly_one(row)
    for j, most in enumerate(slots.tolist()):
        if most < n:
            model.add(sum(row[j] for row in pairs) <= most)
    flat = [x for row in pairs for x in row]
    if np.isfinite(budget_usd):
        unit = float(cost_usd.max()) / 1e6
        cost = np.ceil(cost_usd.ravel() / unit).astype(int).tolist()
        model.add(cp_model.LinearExpr.weighted_sum(flat, cost) <= int(budget_usd / unit))
    worth = np.round(success.ravel() * 1e6).astype(int).tolist()
    model.maximize(cp_model.LinearExpr.weighted_sum(flat, worth))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.relative_gap_limit = gap
    solver.parameters.max_time_in_seconds = time_limit_s
    status = solver.solve(model)
    answer = {"model": None, "gap": None, "finished": status == cp_model.OPTIMAL}
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        objective, bound = solver.objective_value, solver.best_objective_bound
        answer["gap"] = max(bound - objective, 0.0) / objective
        answer["model"] = [int(np.argmax([solver.value(x) for x in row])) for row in pairs]
    print(json.dumps(answer | {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}))


if __name__ == "__main__":
    main(sys.argv[1])
