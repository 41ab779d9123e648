from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from apportion.router.budget import Limit
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.schema import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/budget.db"
        return
    server: str = request.getfixturevalue("server")
    yield server
    engine = create_engine(server)
    metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def open_ledger(url: str) -> Iterator[Callable[..., BudgetLedger]]:
    opened: list[BudgetLedger] = []

    def open_one(*limits: Limit) -> BudgetLedger:
        opened.append(BudgetLedger(url, limits))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()
