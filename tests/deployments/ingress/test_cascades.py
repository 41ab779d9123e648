"""Cascades where answers pass: the first is held back, weighed, and given or thrown away, and nobody sees an error."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.config.simulated import SimulatedSignals
from apportion.deployments.ingress.client import Client
from apportion.router.batch.messages import Decision, Ending, EngineReplica, RouteItem
from apportion.router.batch.stages import Kept, Second, second_id
from apportion.router.budget import Scope, to_nano
from apportion.router.budget.limits import TOTAL_KEY
from apportion.router.budget.standing import Balance
from apportion.router.errors import ApportionError, UnavailableError
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced
from tests.deployments.ingress.dispatching import (
    BATCH,
    PATH,
    Browser,
    StubLink,
    dead_url,
    dispatching,
    parsed,
    serving,
    simulated,
)
from tests.deployments.ingress.front import Front, chat_body
from tests.deployments.ingress.whole import whole_service
from tests.deployments.local_router import NAMES, configuration
from tests.deployments.observability.scraped import Scraped
from tests.deployments.proofs import PLAYED, proved

FIRST, SECOND = "the first answer", "the second answer"


class CascadeLink(StubLink):
    """Every decision is a cascade; its second stage comes to what is given: a URL, that the first is kept, an error.

    Args:
        word_s: how long that takes.
    """

    def __init__(self, url: str, word: str | Kept | ApportionError, word_s: float = 0.0) -> None:
        super().__init__(url)
        self.word = word
        self.word_s = word_s
        self.seconds: list[RouteItem] = []

    async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
        decision = await super().plan(item, forecast)
        return replace(decision, price=ModelPrice(1.0, 1.0), second=Second(second_id(item.id), "large", 0.01, 0.3))

    async def plan_second(self, item: RouteItem, forecast: Unpriced) -> Decision | Kept:
        self.seconds.append(item)
        await asyncio.sleep(self.word_s)
        if isinstance(self.word, ApportionError):
            raise self.word
        if isinstance(self.word, Kept):
            return replace(self.word, id=item.id)
        price = ModelPrice(10.0, 10.0)
        return Decision(item.id, "large", 0.8, 1e-5, 0.0, "mip", "mip", BATCH, "other", self.word, price=price)

    def unwatch(self, request_id: str) -> None:
        del self.watched[request_id]


async def served(link: CascadeLink, **config: Any) -> Browser:
    client = Browser()
    async with dispatching(link, **config) as dispatcher:
        await dispatcher.serve(parsed(), PATH, Client(client.send))
    return client


async def test_a_kept_answer_is_given_with_what_its_signals_say() -> None:
    async with serving(simulated(answer=FIRST, signals=PLAYED)) as engine:
        link = CascadeLink(engine.url, Kept("", 0.875))
        client = await served(link)
    assert client.status == 200
    assert (client.headers["x-router-model"], client.headers["x-router-success"]) == ("small", "0.8750")
    (done,), (second,) = link.done, link.seconds
    assert (done.ending, done.releases) == (Ending.answered, second.id)
    assert done.course is not None
    assert done.course.status == 200
    assert second.first is not None
    assert second.first.signals == done.course.signals, "the router decides by what the engine said"


async def test_an_answer_that_is_not_kept_is_thrown_away_and_both_are_paid() -> None:
    async with serving(simulated(signals=PLAYED)) as first, serving(simulated(answer=SECOND)) as other:
        link = CascadeLink(first.url, other.url)
        client = await served(link)
    assert client.headers["x-router-model"] == "small>large"
    assert SECOND.encode() in client.body
    assert FIRST.encode() not in client.body
    one, two = link.done
    assert (one.releases, two.releases) == (None, None)
    assert two.id == second_id(one.id)
    assert one.course is not None
    assert two.course is not None
    assert (one.course.status, two.course.status) == (None, 200), "the request has one end"
    assert one.cost_usd
    assert two.cost_usd
    assert float(client.headers["x-router-settled-cost-usd"]) == pytest.approx(one.cost_usd + two.cost_usd, rel=1e-9)
    assert not link.watched.keys() - {two.id}


def refusing(status: int) -> Starlette:
    async def answer(_: Request) -> Response:
        return JSONResponse({"error": {"message": "no"}}, status_code=status)

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


@pytest.mark.parametrize("trouble", ["away", "fails", "refuses", "late"])
async def test_a_second_model_that_does_not_answer_costs_the_client_nothing(trouble: str) -> None:
    apps = {"away": None, "fails": refusing(500), "refuses": refusing(400), "late": simulated(first_token_s=60)}
    sure = simulated(answer=FIRST, signals=SimulatedSignals(success=1.0))
    async with serving(sure) as first, serving(apps[trouble] or simulated()) as other:
        link = CascadeLink(first.url, dead_url() if trouble == "away" else other.url)
        client = await served(link, request_timeout_s=1.5 if trouble == "late" else 60.0)
    assert client.status == 200
    assert FIRST.encode() in client.body
    assert client.headers["x-router-model"] == "small"
    one, two = link.done
    assert one.releases is None
    assert (
        two.ending
        is {
            "away": Ending.unreachable,
            "fails": Ending.engine_failed,
            "refuses": Ending.answered,
            "late": Ending.given_up,
        }[trouble]
    )
    assert two.course is not None
    assert two.course.status == 200, "that is how the request has ended"


@pytest.mark.parametrize(("word", "word_s"), [(UnavailableError("no"), 0.0), (Kept("", None), 60.0)])
async def test_without_the_routers_word_the_first_answer_is_given(word: Any, word_s: float) -> None:
    async with serving(simulated(answer=FIRST, signals=SimulatedSignals(success=1.0))) as engine:
        link = CascadeLink(engine.url, word, word_s)
        client = await served(link, request_timeout_s=1.0)
    assert client.status == 200
    assert FIRST.encode() in client.body
    assert [done.releases for done in link.done] == [link.seconds[0].id]


async def test_an_engine_that_says_nothing_of_its_answer_has_it_given() -> None:
    async with serving(simulated(answer=FIRST)) as engine:
        link = CascadeLink(engine.url, Kept("", None))
        client = await served(link)
    assert client.status == 200
    assert link.seconds == []
    assert link.done[0].releases is not None


async def test_a_client_that_leaves_in_between_leaves_nothing() -> None:
    async with serving(simulated(signals=PLAYED)) as engine:
        link, client = CascadeLink(engine.url, Kept("", None), 60.0), Browser()
        async with dispatching(link) as dispatcher:
            serve = asyncio.create_task(dispatcher.serve(parsed(), PATH, Client(client.send)))
            async with asyncio.timeout(5):
                while not link.seconds:
                    await asyncio.sleep(0.005)
            serve.cancel()
            await asyncio.gather(serve, return_exceptions=True)
    (done,) = link.done
    assert done.cost_usd
    assert done.releases == link.seconds[0].id
    assert client.body == b""


async def test_an_engine_that_fails_at_the_first_stage_is_tried_again() -> None:
    async with serving(simulated(signals=PLAYED)) as engine:
        link = CascadeLink(engine.url, Kept("", 0.5))
        link.urls = [dead_url(), engine.url]
        client = await served(link)
    assert client.status == 200
    assert [done.ending for done in link.done] == [Ending.unreachable, Ending.answered]
    assert [done.releases for done in link.done] == [second_id(done.id) for done in link.done]


@pytest.mark.parametrize(
    ("fields", "may"),
    [({}, True), ({"stream": True}, False), ({"n": 2}, False), ({"logprobs": True, "top_logprobs": 2}, False)],
)
def test_only_whole_single_answers_may_be_held_back(fields: dict[str, Any], may: bool) -> None:
    assert parsed(**fields).item.may_cascade is may


# The whole service: only the predictor is played.


def cascading(tmp_path: Path) -> ServiceConfig:
    proved(tmp_path / "artefact")
    return configuration(
        tmp_path / "b.db",
        routing={"cascade": True},
        predictor={"artefact": str(tmp_path / "artefact")},
        budget={"limits": [{"scope": "service", "window": "total", "usd": 1.0}]},
    )


async def chats(front: Front, count: int, **fields: Any) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=front.server.url, timeout=60) as client:
        bodies = [
            chat_body(messages=[{"role": "user", "content": f"question {i}"}], max_tokens=10, **fields)
            for i in range(count)
        ]
        return await asyncio.gather(*(client.post(PATH, content=body) for body in bodies))


async def ledger_total(front: Front) -> Balance:
    """When nothing is in flight any more."""
    reservations = front.router.router._room.reservations
    async with asyncio.timeout(10):
        while reservations.fleet.in_flight or not await reservations.spending.flush():
            await asyncio.sleep(0.02)
    assert reservations.fleet.free_slots().tolist() == [64] * len(NAMES)
    ledger, now_s = reservations.spending._ledger, reservations.spending.now_s()
    return (await ledger.statement(now_s=now_s, scopes=[Scope.service])).balance(TOTAL_KEY)


async def test_cascades_of_a_service_cost_what_they_say_and_leave_nothing_behind(tmp_path: Path) -> None:
    async with serving(simulated(tokens=4, answer=FIRST, signals=PLAYED)) as engine:
        replicas = [EngineReplica(name, name, engine.url, 64) for name in NAMES]
        async with whole_service(cascading(tmp_path), replicas) as front:
            answers = await chats(front, 40)
            total = await ledger_total(front)
            streams = await chats(front, 4, stream=True)
            after = await ledger_total(front)
            page = Scraped((await front.router.router.metrics()).decode())
    models = [answer.headers["x-router-model"] for answer in answers]
    assert {answer.status_code for answer in answers + streams} == {200}
    assert {"wren", "wren>heron"} <= set(models)
    assert not [answer for answer in streams if ">" in answer.headers["x-router-model"]]
    told_usd = [float(answer.headers["x-router-settled-cost-usd"]) for answer in answers]
    assert total == Balance(spent_nano=sum(map(to_nano, told_usd)), reserved_nano=0)
    assert after.reserved_nano == 0
    came = {word: page.value("apportion_cascades_total", outcome=word) for word in ("kept", "asked")}
    assert came == {"kept": models.count("wren"), "asked": models.count("wren>heron")}
    assert page.value("apportion_retries_total") == 0, "a second stage is no failure"
    assert sum(page.value("apportion_requests_total", model=name) for name in NAMES) == len(answers) + len(streams)
