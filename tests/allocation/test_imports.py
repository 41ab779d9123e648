from __future__ import annotations

import subprocess
import sys


def test_the_planner_imports_without_solver_torch_ray_or_vllm() -> None:
    code = (
        "import sys, allocation.planner, allocation.report, allocation.replica, allocation.workload, router.cli\n"
        "heavy = {'pyomo', 'highspy', 'torch', 'pandas', 'sklearn', 'scipy', 'ray', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_import_without_the_planner() -> None:
    code = "import sys, router.cli; assert not [m for m in sys.modules if m.startswith('allocation')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
