"""Sends the plan's requests and writes down what came back; decides nothing about it."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from apportion.deployments.wire.headers import STREAM_COST_HEADER
from apportion.deployments.wire.settlement import SETTLED_HEADER
from tests.chaos.plan import Plan, Shot

GRACE_S = 10.0  # beyond its deadline a request is taken for hung; the client shares two cores with the service
BACKOFF_S = 0.5  # whoever was told to come back later does not send the next request at once
_COMMENT = f": {SETTLED_HEADER} "
_TELL_COST = {STREAM_COST_HEADER: "true"}


@dataclass
class Outcome:
    """What became of a request; times are of the monotonic clock.

    `left`: its client left on purpose. `broken`: the connection failed. `events` are a stream's data, in order.
    """

    shot: Shot
    started_s: float = 0.0
    ended_s: float = 0.0
    status: int | None = None
    headers: dict[str, str] | None = None
    body: bytes = b""
    left: bool = False
    broken: str = ""
    hung: bool = False

    @property
    def streamed(self) -> bool:
        return (self.headers or {}).get("content-type", "").startswith("text/event-stream")

    @property
    def events(self) -> list[str]:
        lines = self.body.decode(errors="replace").splitlines()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    @property
    def comments(self) -> list[str]:
        return [line for line in self.body.decode(errors="replace").splitlines() if line.startswith(_COMMENT)]

    @property
    def settled_usd(self) -> str | None:
        """What the service said that the answer cost, as it said it."""
        if self.streamed:
            return self.comments[0].removeprefix(_COMMENT) if self.comments else None
        return (self.headers or {}).get(SETTLED_HEADER)

    @property
    def error(self) -> dict[str, Any] | None:
        """The envelope's inside, of an error answer or of a stream's last event before [DONE]."""
        try:
            text = self.events[-2] if self.streamed else self.body.decode()
            error = json.loads(text)["error"]
        except (ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError):
            return None
        return error if isinstance(error, dict) else None


async def run_plan(
    plan: Plan,
    url: str,
    *,
    concurrency: int,
    timeout_s: float,
    headers_of: Callable[[Shot], dict[str, str]],
    kill: Callable[[str], Any],
) -> list[Outcome]:
    """Sends everything, `concurrency` at a time and bursts at once; `kill` is started at its places.

    Before each kill new requests are held back until what was killed before is there again, so that every
    irregularity has one cause.

    Args:
        timeout_s: the service's own limit of a request without a deadline.
        headers_of: what a request sends besides its own headers.
    """
    seats = asyncio.Semaphore(concurrency)
    due = {kill.at: kill.part for kill in plan.kills}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def send(shot: Shot) -> Outcome:
            outcome = Outcome(shot)
            try:
                limit_s = (shot.timeout_s or timeout_s) + GRACE_S
                outcome.started_s = time.monotonic()
                await _send(session, url, outcome, limit_s, headers_of(shot))
            finally:
                outcome.ended_s = time.monotonic()
            if shot.burst is None:
                if outcome.status == 429:
                    await asyncio.sleep(BACKOFF_S)
                seats.release()
            return outcome

        tasks, kills = [], []
        for shot in plan.shots:
            if shot.index in due:
                await asyncio.gather(*kills)
                kills.append(asyncio.create_task(kill(due[shot.index])))
            if shot.burst is None:
                await seats.acquire()
            tasks.append(asyncio.create_task(send(shot)))
        outcomes = await asyncio.gather(*tasks)
        await asyncio.gather(*kills)
        return list(outcomes)


async def _send(
    session: aiohttp.ClientSession, url: str, outcome: Outcome, limit_s: float, headers: dict[str, str]
) -> None:
    shot = outcome.shot
    patience_s = limit_s if shot.leave_after_s is None else shot.leave_after_s
    try:
        async with asyncio.timeout(patience_s):
            request = session.post(
                f"{url}{shot.path}", data=io.BytesIO(shot.payload), headers=_TELL_COST | shot.headers | headers
            )
            async with request as answer:
                outcome.status = answer.status
                outcome.headers = {name.lower(): value for name, value in answer.headers.items()}
                await _read(answer, outcome)
    except TimeoutError:
        outcome.left = shot.leave_after_s is not None
        outcome.hung = not outcome.left
    except (aiohttp.ClientError, ConnectionError) as error:
        outcome.broken = repr(error)


async def _read(answer: aiohttp.ClientResponse, outcome: Outcome) -> None:
    chunks = 0
    async for chunk in answer.content.iter_any():
        outcome.body += chunk
        chunks += 1
        if outcome.shot.leave_after_chunks is not None and chunks >= outcome.shot.leave_after_chunks:
            outcome.left = True
            answer.close()
            return
