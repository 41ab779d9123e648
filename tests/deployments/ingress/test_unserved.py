"""Every request ends once at its ingress: with an attempt that has a status, or as one that went unserved."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.ingress.client import Client
from apportion.router.batch.messages import Done, Ending, Reply, Report
from apportion.router.errors import ApportionError, OverloadedError
from tests.deployments.ingress.dispatching import (
    PATH,
    Browser,
    StubLink,
    dead_url,
    dispatching,
    parsed,
    serving,
    simulated,
)
from tests.deployments.local_router import Line


class Refusing(StubLink):
    """Refuses from the second attempt on."""

    async def plan(self, item: Any, forecast: Any) -> Any:
        if self.asked:
            raise OverloadedError("full")
        return await super().plan(item, forecast)


class Silent(StubLink):
    """Never decides."""

    async def plan(self, item: Any, forecast: Any) -> Any:
        await asyncio.Event().wait()


def course(done: Done) -> tuple[int, int | None]:
    assert done.course is not None
    return done.course.earlier, done.course.status


async def serve(link: StubLink, **config: float) -> str | None:
    """The code of the error that the client is told."""
    async with dispatching(link, **config) as dispatcher:
        try:
            await dispatcher.serve(parsed(), PATH, Client(Browser().send))
        except ApportionError as error:
            return error.code
    return None


async def test_an_answer_is_told_with_its_status_and_its_times() -> None:
    async with serving(simulated(first_token_s=0.05)) as engine:
        link = StubLink(engine.url)
        began_s = time.monotonic()
        await serve(link)
        took_s = time.monotonic() - began_s

    (done,) = link.done
    assert course(done) == (0, 200)
    assert done.course is not None
    assert done.course.first_byte_s is not None
    assert 0.05 <= done.course.first_byte_s <= done.course.total_s <= took_s
    assert not link.unserved.totals


async def test_an_engines_refusal_is_an_end_with_its_status() -> None:
    async def refuse(request: Request) -> Response:
        return JSONResponse({"error": {"message": "no"}}, status_code=400)

    async with serving(Starlette(routes=[Route(PATH, refuse, methods=["POST"])])) as engine:
        link = StubLink(engine.url)
        await serve(link)

    assert [course(done) for done in link.done] == [(0, 400)]
    assert not link.unserved.totals


async def test_of_attempts_only_the_last_has_a_status() -> None:
    async with serving(simulated()) as engine:
        link = StubLink(dead_url(), engine.url)
        await serve(link)

    assert [course(done) for done in link.done] == [(0, None), (1, 200)]
    assert not link.unserved.totals


async def test_when_no_engine_is_left_the_last_attempt_has_the_status() -> None:
    link = StubLink(dead_url())

    assert await serve(link, retries=1) == "unavailable"

    assert [course(done) for done in link.done] == [(0, None), (1, 503)]
    assert not link.unserved.totals


async def test_a_request_whose_further_attempt_is_refused_went_unserved() -> None:
    link = Refusing(dead_url())

    assert await serve(link) == "overloaded"

    assert [course(done) for done in link.done] == [(0, None)]
    assert link.unserved.totals == Counter(overloaded=1)


async def test_a_request_past_its_deadline_is_told_with_the_attempt_or_went_unserved() -> None:
    async with serving(simulated(first_token_s=5)) as engine:
        link = StubLink(engine.url)
        assert await serve(link, request_timeout_s=0.1) == "deadline_exceeded"
    assert [course(done) for done in link.done] == [(0, 504)]
    assert not link.unserved.totals

    link = Silent()
    assert await serve(link, request_timeout_s=0.1) == "deadline_exceeded"
    assert not link.done
    assert link.unserved.totals == Counter(deadline_exceeded=1)


async def test_a_client_that_leaves_is_told_with_the_attempt_or_went_unserved() -> None:
    async with serving(simulated(first_token_s=5)) as engine:
        link = StubLink(engine.url)
        async with asyncio.timeout(10):
            work = asyncio.create_task(serve(link))
            while not link.asked:
                await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
    assert [(done.ending, *course(done)) for done in link.done] == [(Ending.given_up, 0, 499)]
    assert not link.unserved.totals

    link = Silent()
    work = asyncio.create_task(serve(link))
    await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert link.unserved.totals == Counter(client_gone=1)


async def test_counts_reach_the_router_once_and_before_the_ingress_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.deployments.ingress.link.UNSERVED_S", 0.01)
    reports: list[Report] = []

    async def exchange(report: Report, wait: bool) -> Reply:
        reports.append(report)
        return Reply("one", ())

    link = Line(exchange)

    def refuse() -> None:
        with pytest.raises(OverloadedError), link.unserved.counted():
            raise OverloadedError("full")

    refuse()
    refuse()
    await asyncio.sleep(0.1)
    assert [report.unserved for report in reports] == [{"overloaded": 2}]
    refuse()
    await link.close()
    assert reports[-1].unserved == {"overloaded": 3}
