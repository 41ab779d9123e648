"""SIGKILL for parts of the running service, and how long each took to be back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from tests.deployments.processes import descendants, kill, replicas
from tests.deployments.service import health

RECOVERY_LIMIT_S = 240.0
MARGIN_S = 3.0  # after a part is back: heartbeats and health checks have to find it
UNKNOWN_S = 3.0  # so long the proxy, or the router, may take a killed part for a living one
HEALTH_TIMEOUT_S = 5.0
ENGINE = "Engine-"


@dataclass
class Outage:
    """A part's absence; `back_s` is None while it lasts. Times are of the monotonic clock."""

    part: str
    killed_s: float
    back_s: float | None = None

    @property
    def model(self) -> str | None:
        return self.part.removeprefix(ENGINE) if self.part.startswith(ENGINE) else None

    def touches(self, started_s: float, ended_s: float) -> bool:
        """Whether something that lasted from then to then ran while the part was away."""
        until_s = float("inf") if self.back_s is None else self.back_s + MARGIN_S
        return started_s <= until_s and ended_s >= self.killed_s

    def struck(self, started_s: float, ended_s: float) -> bool:
        """Whether something that lasted from then to then ran at the kill, or began before anyone could know of it."""
        return started_s <= self.killed_s + UNKNOWN_S and ended_s >= self.killed_s


class Killer:
    """Kills on demand and watches for the return.

    Attributes:
        seen: the processes that ran before each kill.
        peaks: by replica of an engine, its model and the most answers that it has had at once, as it has told last.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.outages: list[Outage] = []
        self.seen: set[psutil.Process] = set()
        self.peaks: dict[str, tuple[str, int]] = {}

    async def watch_peaks(self) -> None:
        """Asks every second, for ever."""
        while True:
            state = await asyncio.to_thread(health, self._url, HEALTH_TIMEOUT_S)
            self.peaks |= {name: (one["model"], one["peak"]) for name, one in state.get("replicas", {}).items()}
            await asyncio.sleep(1.0)

    async def kill(self, part: str) -> None:
        """Kills the oldest replica of a deployment and returns when another has taken its place."""
        self.seen.update(await asyncio.to_thread(descendants))
        living = await asyncio.to_thread(replicas, part)
        known = _names(part, await asyncio.to_thread(health, self._url, HEALTH_TIMEOUT_S))
        outage = Outage(part, time.monotonic())
        pid = kill(living[0])
        self.outages.append(outage)
        while time.monotonic() - outage.killed_s < RECOVERY_LIMIT_S:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(probe, self._url)
            now = {process.pid for process in await asyncio.to_thread(replicas, part)} - {pid}
            state = await asyncio.to_thread(health, self._url, HEALTH_TIMEOUT_S)
            if len(now) >= len(living) and _works(part, state, known):
                outage.back_s = time.monotonic()
                return


def probe(url: str) -> None:
    """One request, whatever comes of it: breakers close by what is asked of them."""
    body = {"messages": [{"role": "user", "content": "What is 2 plus 3?"}], "max_tokens": 8}
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-router-tenant": "probe"}, timeout=5)


def _names(part: str, state: dict[str, Any]) -> set[str]:
    """The replicas of an engine that the router knows."""
    model = part.removeprefix(ENGINE)
    return {name for name, replica in state.get("replicas", {}).items() if replica["model"] == model}


def _works(part: str, state: dict[str, Any], known: set[str]) -> bool:
    if not state.get("models"):
        return False
    if part.startswith(ENGINE):  # until it has been silent for long, the slots may be the dead one's
        return bool(_names(part, state) - known and state["models"][part.removeprefix(ENGINE)]["slots"] > 0)
    return bool(state["parts"].get(part.lower(), "closed") == "closed")
