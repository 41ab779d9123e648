"""Importing the library is free."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "pyomo", "highspy", "sklearn", "ray", "vllm", "pandas", "sqlalchemy")


def test_packages_import_without_their_heavy_parts() -> None:
    code = (
        "import sys\n"
        "import apportion.router.prediction, apportion.router.outcomes\n"
        "import apportion.router.budget, apportion.router.errors\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_prediction_package_gives_its_public_names() -> None:
    import apportion.router.prediction as prediction

    assert all(getattr(prediction, name) is not None for name in prediction.__all__)
