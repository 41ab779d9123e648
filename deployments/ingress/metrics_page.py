"""What an ingress tells Prometheus: the router's numbers, the same from every ingress, and where the engines are."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST

from apportion.deployments.observability.catalogue import UP
from apportion.deployments.observability.numbers import Numbers
from apportion.deployments.wire.calls import answer_of
from apportion.router.batch.guards.recent import Recent

CONTENT_TYPE = CONTENT_TYPE_LATEST
AGE_S = 1.0  # numbers may be told again for so long
TIMEOUT_S = 2.0
STALE_S = 1.1 * AGE_S  # older numbers are those of a router that does not answer; another ingress may know newer ones


class MetricsPage:
    """Asks the router at most once a second, however many ask here.

    Args:
        ask: the router's `metrics`.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, ask: Callable[[], Awaitable[bytes]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._recent: Recent[bytes] = Recent("the router's metrics", self._asked, clock)

    async def text(self) -> bytes:
        """The page; without a router it says that there is none, and nothing else."""
        text = await self._recent.within(AGE_S, TIMEOUT_S)
        if text is None or self._recent.error is not None or self._recent.age_s > STALE_S:
            return _down()
        return text

    async def _asked(self) -> bytes:
        return await answer_of(self._ask(), TIMEOUT_S)


def _down() -> bytes:
    numbers = Numbers((UP,))
    numbers.put(UP, {(): 0})
    return numbers.text()


def targets(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The engines' own pages, as Prometheus discovers them by HTTP.

    Args:
        state: the router's.
    """
    by_model: dict[str, list[str]] = {}
    for replica in state.get("replicas", {}).values():
        by_model.setdefault(replica["model"], []).append(urlsplit(replica["url"]).netloc)
    return [{"targets": sorted(found), "labels": {"model": model}} for model, found in sorted(by_model.items())]
