import asyncio
from contextvars import ContextVar
from functools import partial

import pytest

from apportion.deployments.ingress import link as link_module
from apportion.router.batch.messages import (
    Decision,
    Done,
    Held,
    Reply,
    Report,
    RouteItem,
)
from apportion.router.errors import BudgetExceededError, UnavailableError
from tests.deployments.ingress.fake_router import FakeRouter, decide, item
from tests.deployments.local_router import Line


async def test_requests_of_one_turn_cross_in_one_exchange() -> None:
    router = FakeRouter()
    link = Line(router.exchange)
    decisions = await asyncio.gather(*(link.plan(item(f"r{i}")) for i in range(50)))
    assert [d.id for d in decisions] == [f"r{i}" for i in range(50)]
    assert len(router.exchanges) == 1


async def test_while_a_batch_is_planned_the_next_collects() -> None:
    router = FakeRouter(planning_s=0.1)
    link = Line(router.exchange)

    async def arrive(i: int) -> Decision:
        await asyncio.sleep(0.001 * i)
        return await link.plan(item(f"r{i}"))

    await asyncio.gather(*(arrive(i) for i in range(40)))
    assert len(router.exchanges) < 40 / 2
    assert sum(wait for _, wait in router.exchanges) <= 3


async def test_a_refusal_is_raised_to_its_own_request_only() -> None:
    router = FakeRouter()
    router.refuse = {"bad"}
    link = Line(router.exchange)
    good, bad = await asyncio.gather(link.plan(item("good")), link.plan(item("bad")), return_exceptions=True)
    assert isinstance(good, Decision)
    assert isinstance(bad, BudgetExceededError)


async def test_endings_are_told_together() -> None:
    router = FakeRouter()
    link = Line(router.exchange)
    await asyncio.gather(*(link.plan(item(f"r{i}")) for i in range(5)))
    for i in range(5):
        link.finish(Done(f"r{i}", 1e-6))
    await asyncio.sleep(0.05)
    assert [d.id for d in router.done] == [f"r{i}" for i in range(5)]
    assert len(router.exchanges) == 2


async def test_endings_and_cancels_are_told_before_the_line_ends() -> None:
    router = FakeRouter(planning_s=10)
    link = Line(router.exchange)
    waits = asyncio.create_task(link.plan(item("waits")))
    async with asyncio.timeout(5):
        while not router.exchanges:
            await asyncio.sleep(0)
    link.finish(Done("ended", 1e-6))
    await link.close()
    assert [d.id for d in router.done] == ["ended"]
    assert router.cancelled == ["waits"]
    waits.cancel()


async def test_endings_of_an_exchange_that_the_close_cuts_off_are_told_again() -> None:
    router = FakeRouter(planning_s=10)
    link = Line(router.exchange)
    link.finish(Done("ended", 1e-6))
    waits = asyncio.create_task(link.plan(item("waits")))
    async with asyncio.timeout(5):
        while not router.exchanges:
            await asyncio.sleep(0)
    router.done.clear()  # the router was lost with it
    await link.close()
    assert [d.id for d in router.done] == ["ended"]
    waits.cancel()


async def test_an_ending_goes_with_the_next_request_if_one_comes_soon() -> None:
    router = FakeRouter()
    link = Line(router.exchange)
    for number in range(4):
        await link.plan(item(f"r{number}"))
        link.finish(Done(f"r{number}", 1e-6))
    assert len(router.exchanges) == 4
    assert [d.id for d in router.done] == ["r0", "r1", "r2"]


async def test_a_cancelled_request_frees_its_seat() -> None:
    router = FakeRouter(planning_s=0.1)
    link = Line(router.exchange)
    first = asyncio.create_task(link.plan(item("stays")))
    second = asyncio.create_task(link.plan(item("leaves")))
    await asyncio.sleep(0.02)
    second.cancel()
    assert (await first).id == "stays"
    await asyncio.sleep(0.05)
    assert router.cancelled == ["leaves"]


async def test_a_cancel_outlives_a_lost_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    router = FakeRouter(planning_s=60)
    link = Line(router.exchange)
    stays, leaves = (asyncio.create_task(link.plan(item(name))) for name in ("stays", "leaves"))
    async with asyncio.timeout(10):
        while not router.exchanges:
            await asyncio.sleep(0)
        router.failures = 1
        leaves.cancel()
        while router.failures or router.cancelled != ["leaves"]:
            await asyncio.sleep(0.01)
    stays.cancel()
    await link.close()


async def test_a_request_cancelled_before_it_is_sent_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    router = FakeRouter()
    link = Line(router.exchange)
    router.failures = 1
    task = asyncio.create_task(link.plan(item("r")))
    async with asyncio.timeout(5):
        while not (link._new and link._new["r"][0].resent):
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        while router.cancelled != ["r"]:
            await asyncio.sleep(0.01)
    assert all("r" not in ids for ids, _ in router.exchanges)


async def test_what_a_silent_router_was_asked_is_cancelled_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.001)
    monkeypatch.setattr(link_module, "PATIENCE_S", 0.02)
    router = FakeRouter()
    router.failures = 1_000_000
    link = Line(router.exchange)
    with pytest.raises(UnavailableError):
        await link.plan(item("r"))
    router.failures = 0
    async with asyncio.timeout(5):
        while router.cancelled != ["r"]:
            await asyncio.sleep(0.01)


async def test_a_request_cancelled_before_it_was_sent_is_never_sent() -> None:
    router = FakeRouter()
    link = Line(router.exchange)
    task = asyncio.create_task(link.plan(item("r")))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.02)
    assert all("r" not in ids for ids, _ in router.exchanges)


async def test_a_restarting_router_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    router = FakeRouter()
    router.failures = 3
    link = Line(router.exchange)
    assert (await link.plan(item("r"))).id == "r"


async def test_a_router_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.001)
    monkeypatch.setattr(link_module, "PATIENCE_S", 0.05)
    router = FakeRouter()
    router.failures = 1_000_000
    link = Line(router.exchange)
    with pytest.raises(UnavailableError, match="router does not answer"):
        await link.plan(item("r"))


async def test_a_router_that_came_back_is_told_what_is_in_flight() -> None:
    router = FakeRouter()
    link = Line(router.exchange)
    await link.plan(RouteItem(id="long", sequences=2))
    await link.plan(item("short"))
    link.finish(Done("short", 1e-6))
    await asyncio.sleep(0.01)
    router.restart()
    await link.plan(item("next"))
    async with asyncio.timeout(5):
        while not router.held:
            await asyncio.sleep(0.001)
    assert router.held == [
        Held("long", "small", "replica", 2, 1e-6),
        Held("next", "small", "replica", 1, 1e-6),
    ]


async def test_what_waits_is_handed_to_a_router_that_restarted_while_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    router = FakeRouter(planning_s=0.05)
    link = Line(router.exchange)
    held = asyncio.create_task(link.plan(item("held")))
    await held
    waiting = asyncio.create_task(link.plan(item("waiting")))
    await asyncio.sleep(0.01)
    router.restart()  # forgets what it was asked
    assert (await asyncio.wait_for(waiting, 2)).id == "waiting"
    assert [h.id for h in router.held][:1] == ["held"]


async def test_a_lost_exchange_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "EXCHANGE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    router = FakeRouter(planning_s=0.2)
    link = Line(router.exchange)
    task = asyncio.create_task(link.plan(item("r")))
    await asyncio.sleep(0.1)
    router.planning_s = 0.0
    assert (await asyncio.wait_for(task, 2)).id == "r"


async def test_an_exchange_belongs_to_no_single_request() -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen = []

    class Router(FakeRouter):
        async def exchange(self, report: Report, wait: bool) -> Reply:
            seen.append(request.get())
            return await super().exchange(report, wait)

    link = Line(Router(planning_s=0.01).exchange)

    async def ask(name: str) -> None:
        request.set(name)
        await link.plan(item(name))
        link.finish(Done(name, 1e-6))

    await asyncio.gather(*(asyncio.create_task(ask(name)) for name in "abc"))
    await asyncio.sleep(0.05)
    assert len(seen) >= 2
    assert set(seen) == {"none"}, "Serve would end it with the request whose context it has"
    await link.close()


async def test_an_exchange_that_was_cancelled_elsewhere_is_made_again() -> None:
    calls = 0

    class Router(FakeRouter):
        async def exchange(self, report: Report, wait: bool) -> Reply:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError
            return await super().exchange(report, wait)

    link = Line(Router().exchange)
    decision = await asyncio.wait_for(link.plan(item("a")), 2)
    assert decision.id == "a"
    await link.close()


@pytest.fixture
def soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "LATE_S", 0.1)
    monkeypatch.setattr(link_module, "KEEPALIVE_S", 0.02)


@pytest.mark.usefixtures("soon_late")
async def test_a_verdict_that_went_into_a_reply_nobody_read_is_asked_for() -> None:
    router = FakeRouter()
    router.lost_replies = 1
    link = Line(router.exchange)
    assert (await asyncio.wait_for(link.plan(item("r")), 2)).id == "r"
    await link.close()


@pytest.mark.usefixtures("soon_late")
async def test_an_ending_is_told_again_until_it_is_in_the_ledger() -> None:
    router = FakeRouter()
    router.settles = False
    link = Line(router.exchange)
    await link.plan(item("r"))
    link.finish(Done("r", 1e-6))
    async with asyncio.timeout(2):
        while len(router.done) < 3:
            await asyncio.sleep(0.01)
    router.settles = True
    async with asyncio.timeout(2):
        while link._endings.unconfirmed:
            await asyncio.sleep(0.01)
    told = len(router.done)
    await asyncio.sleep(0.3)
    assert len(router.done) == told
    await link.close()


async def test_what_a_lost_router_had_not_confirmed_is_told_to_the_next() -> None:
    router = FakeRouter()
    router.settles = False
    link = Line(router.exchange)
    await link.plan(item("r"))
    link.finish(Done("r", 1e-6))
    async with asyncio.timeout(2):
        while not router.done:
            await asyncio.sleep(0.01)
    router.restart()
    router.settles = True
    router.done.clear()
    await link.plan(item("next"))
    async with asyncio.timeout(2):
        while not router.done:
            await asyncio.sleep(0.01)
    assert [done.id for done in router.done] == ["r"]
    await link.close()


async def test_a_decision_that_is_told_twice_does_not_end_its_request_as_unsent() -> None:
    class Router(FakeRouter):
        async def exchange(self, report: Report, wait: bool) -> Reply:
            reply = await super().exchange(report, wait)
            return Reply(reply.router, (*reply.verdicts, decide(item("r"))), reply.settled)

    router = Router()
    link = Line(router.exchange)
    await link.plan(item("r"))
    link.finish(Done("r", 1e-6))
    await link.plan(item("next"))
    await link.close()
    assert [done.cost_usd for done in router.done if done.id == "r"] == [1e-6]


async def test_requests_on_silent_replicas_are_told_once() -> None:
    router = FakeRouter()
    link = Line(router.exchange)
    told: list[str] = []
    for name in ("a", "b", "c"):
        await link.plan(item(name))
        link.watch(name, partial(told.append, name))
    link.finish(Done("b", 1e-6))
    for _ in range(2):
        link._after_reply(Reply(router.name, (), silent=("other", "replica")))
    assert told == ["a", "c"]
    link._after_reply(Reply(router.name, (), silent=("other",)))
    await link.close()
    assert told == ["a", "c"]
