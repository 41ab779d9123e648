from __future__ import annotations

import pytest

from apportion.router.assignment import warm_up


@pytest.fixture(scope="session", autouse=True)
def solvers_loaded() -> None:
    """Pyomo and HiGHS take a second to import; no single test should carry it."""
    warm_up()
