"""Folders of a Ray `working_dir` that are named as the project's are not taken for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("alone")]

NAMES = ("router", "allocation", "deployments", "benchmarks")


def test_a_working_dir_with_folders_of_our_names_hides_nothing(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    # In a process of its own: Ray keeps the token of the first cluster that a process has seen.
    driver = subprocess.run(
        [sys.executable, "-m", "tests.package.working_dir_driver", str(tmp_path)],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert driver.returncode == 0, driver.stderr
    beside, deployment = json.loads(driver.stdout.splitlines()[-1])
    assert set(NAMES) <= set(beside)
    assert deployment == "Ingress"
