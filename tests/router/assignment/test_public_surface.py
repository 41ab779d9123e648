from __future__ import annotations

import subprocess
import sys

import apportion.router.assignment as assignment


def test_public_names_are_these() -> None:
    assert assignment.__all__ == [
        "ENDLESS", "STRATEGIES", "Assignment", "BatchProblem", "Greedy", "Infeasibility", "Limit", "Mip", "Ndch",
        "NdchP", "PerQuery", "Price", "Prices", "RobustMip", "Static", "Status", "Strategy", "Termination", "Threshold",
        "assign", "enforce", "first_in_line", "full_model", "largest_feasible_subset", "solve_model", "strategy_from",
        "warm_up",
    ]  # fmt: skip
    assert list(assignment.STRATEGIES) == [
        "threshold", "ndch", "ndch_p", "mip", "robust_mip", "greedy", "price", "per_query", "static",
    ]  # fmt: skip
    assert all(getattr(assignment, name) is not None for name in assignment.__all__)


def test_import_is_free_and_the_sure_case_needs_no_solver() -> None:
    code = (
        "import sys, numpy as np, router.assignment as a, router.evaluation\n"
        "answer = a.assign(a.BatchProblem(np.eye(2), np.ones((2, 2)), np.array([2, 2]), 9.0))\n"
        "assert answer.model.tolist() == [0, 1] and answer.status == 'optimal'\n"
        "heavy = {'pyomo', 'highspy', 'torch', 'pandas', 'sklearn', 'ray', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
