"""Requests and limits of the tests about money."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from apportion.router.batch.messages import RouteItem
from tests.deployments.local_router import LocalService

Start = Callable[..., Awaitable[LocalService]]


def total(usd: float, **fields: Any) -> dict[str, Any]:
    return {"scope": "service", "window": "total", "usd": usd, **fields}


def item(name: str, **fields: Any) -> RouteItem:
    return RouteItem(id=name, **{"max_tokens": 10, **fields})
