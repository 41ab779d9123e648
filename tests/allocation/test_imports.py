from __future__ import annotations

import subprocess
import sys


def test_the_planner_imports_without_solver_torch_ray_or_vllm() -> None:
    code = (
        "import sys\n"
        "from apportion.allocation import planner, replica, report, workload\n"
        "from apportion.deployments import cli\n"
        "heavy = {'pyomo', 'highspy', 'torch', 'pandas', 'sklearn', 'scipy', 'ray', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_import_without_the_planner() -> None:
    code = (
        "import sys, apportion.deployments.cli\n"
        "assert not [module for module in sys.modules if module.startswith('apportion.allocation')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
