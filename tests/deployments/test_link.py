import asyncio
from collections.abc import Sequence

import pytest

from deployments import link as link_module
from deployments.link import RouterLink
from deployments.messages import BatchInfo, Decision, Done, Refusal, RouteItem, Verdict
from router.errors import BudgetExceededError, UnavailableError

BATCH = BatchInfo(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ())


def decide(item: RouteItem) -> Decision:
    return Decision(item.id, "small", 0.5, 1e-6, 0.0, "mip", "mip", BATCH)


class FakeRouter:
    """Answers waiting exchanges after `planning_s`, as the router does; records what it was told."""

    def __init__(self, planning_s: float = 0.0) -> None:
        self.planning_s = planning_s
        self.exchanges: list[tuple[list[str], bool]] = []
        self.done: list[Done] = []
        self.cancelled: list[str] = []
        self.undecided: dict[str, RouteItem] = {}
        self.refuse: set[str] = set()
        self.failures = 0

    async def exchange(
        self,
        name: str,
        items: Sequence[RouteItem],
        done: Sequence[Done],
        cancelled: Sequence[str],
        wait: bool,
    ) -> list[Verdict]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("router restarts")
        self.exchanges.append(([item.id for item in items], wait))
        self.done += done
        self.cancelled += cancelled
        self.undecided |= {item.id: item for item in items}
        for request_id in cancelled:
            self.undecided.pop(request_id, None)
        if not wait:
            return []
        await asyncio.sleep(self.planning_s)
        ready, self.undecided = self.undecided, {}
        return [
            Refusal(key, BudgetExceededError("too dear")) if key in self.refuse else decide(item)
            for key, item in ready.items()
        ]


def item(name: str) -> RouteItem:
    return RouteItem(id=name, content="x")


async def test_requests_of_one_turn_cross_in_one_exchange() -> None:
    router = FakeRouter()
    link = RouterLink(router.exchange)
    decisions = await asyncio.gather(*(link.plan(item(f"r{i}")) for i in range(50)))
    assert [d.id for d in decisions] == [f"r{i}" for i in range(50)]
    assert len(router.exchanges) == 1


async def test_while_a_batch_is_planned_the_next_collects() -> None:
    router = FakeRouter(planning_s=0.1)
    link = RouterLink(router.exchange)

    async def arrive(i: int) -> Decision:
        await asyncio.sleep(0.001 * i)
        return await link.plan(item(f"r{i}"))

    await asyncio.gather(*(arrive(i) for i in range(40)))
    assert len(router.exchanges) < 40 / 2
    assert sum(wait for _, wait in router.exchanges) <= 3


async def test_a_refusal_is_raised_to_its_own_request_only() -> None:
    router = FakeRouter()
    router.refuse = {"bad"}
    link = RouterLink(router.exchange)
    good, bad = await asyncio.gather(link.plan(item("good")), link.plan(item("bad")), return_exceptions=True)
    assert isinstance(good, Decision)
    assert isinstance(bad, BudgetExceededError)


async def test_endings_are_told_together() -> None:
    router = FakeRouter()
    link = RouterLink(router.exchange)
    await asyncio.gather(*(link.plan(item(f"r{i}")) for i in range(5)))
    for i in range(5):
        link.finish(Done(f"r{i}", 1e-6))
    await asyncio.sleep(0.05)
    assert [d.id for d in router.done] == [f"r{i}" for i in range(5)]
    assert len(router.exchanges) == 2


async def test_a_cancelled_request_frees_its_seat() -> None:
    router = FakeRouter(planning_s=0.1)
    link = RouterLink(router.exchange)
    first = asyncio.create_task(link.plan(item("stays")))
    second = asyncio.create_task(link.plan(item("leaves")))
    await asyncio.sleep(0.02)
    second.cancel()
    assert (await first).id == "stays"
    await asyncio.sleep(0.05)
    assert router.cancelled == ["leaves"]


async def test_a_request_cancelled_before_it_was_sent_is_never_sent() -> None:
    router = FakeRouter()
    link = RouterLink(router.exchange)
    task = asyncio.create_task(link.plan(item("r")))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.02)
    assert all("r" not in ids for ids, _ in router.exchanges)


async def test_a_restarting_router_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    router = FakeRouter()
    router.failures = 3
    link = RouterLink(router.exchange)
    assert (await link.plan(item("r"))).id == "r"


async def test_a_router_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.001)
    router = FakeRouter()
    router.failures = 1000
    link = RouterLink(router.exchange)
    with pytest.raises(UnavailableError, match="router does not answer"):
        await link.plan(item("r"))
