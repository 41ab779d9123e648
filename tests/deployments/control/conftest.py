from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.control.money import Start
from tests.deployments.local_router import LocalService, configuration


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[LocalService] = []

    async def start_one(*limits: dict[str, Any], **sections: Any) -> LocalService:
        budget = {"limits": list(limits), **sections.pop("budget", {})}
        service = LocalService(configuration(tmp_path / "budget.db", budget=budget, **sections))
        await service.announce()
        running.append(service)
        return service

    yield start_one
    for service in running:
        await service.close()
