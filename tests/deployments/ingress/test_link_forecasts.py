"""What an ingress tells the router of its requests' forecasts, and of the predictor."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from apportion.deployments.ingress import link as link_module
from apportion.deployments.ingress.link import RouterLink
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.messages import (
    Done,
    Reply,
    Report,
    RouteItem,
    RoutingAsk,
)
from apportion.router.budget import Account
from apportion.router.errors import BudgetExceededError
from tests.deployments.ingress.fake_router import FakeRouter, item
from tests.deployments.local_router import Line
from tests.router.batch.plain_room import forecasts


def reads(router: FakeRouter) -> list[Report]:
    """Every report with requests, as the router gets it."""
    reports: list[Report] = []
    exchange = router.exchange

    async def kept(report: Report, wait: bool) -> Reply:
        if report.items:
            reports.append(report)
        return await exchange(report, wait)

    router.exchange = kept  # type: ignore[method-assign]
    return reports


async def test_a_router_that_came_back_is_told_what_was_expected_and_nobody_predicts_again() -> None:
    router = FakeRouter(planning_s=0.05)
    reports = reads(router)
    link = RouterLink(lambda report, wait: router.exchange(report, wait))
    plans = [asyncio.create_task(link.plan(item(f"r{n}"), forecasts(1, success=(0.1 * n, 0.5)))) for n in range(3)]
    async with asyncio.timeout(5):
        while not reports:
            await asyncio.sleep(0)
    router.restart()
    await link.plan(item("next"), forecasts(1))
    await asyncio.gather(*plans)
    again = [report for report in reports if any(one.resent for one in report.items)]
    told = {
        one.id: round(float(report.forecast.layer("success")[row, 0]), 3)
        for report in again
        if report.forecast is not None
        for row, one in enumerate(report.items)
    }
    assert {name: success for name, success in told.items() if name != "next"} == {"r0": 0.0, "r1": 0.1, "r2": 0.2}
    await link.close()


async def test_samples_are_told_only_to_a_router_that_plans_by_them() -> None:
    class Robust(FakeRouter):
        async def exchange(self, report: Report, wait: bool) -> Reply:
            return replace(await super().exchange(report, wait), samples=True)

    sampled = replace(forecasts(1), success_samples=np.full((3, 1, 2), 0.5))
    for router, ask, told in (
        (FakeRouter(), RoutingAsk(), [False, False]),
        (FakeRouter(), RoutingAsk("robust_mip"), [True, True]),
        (Robust(), RoutingAsk(), [False, True]),
    ):
        reports = reads(router)
        link = RouterLink(router.exchange)
        for name in ("a", "b"):
            await link.plan(RouteItem(name, ask=ask), sampled)
        found = [report.forecast is not None and report.forecast.success_samples is not None for report in reports]
        assert found == told
        await link.close()


async def test_whoever_is_refused_for_a_while_is_refused_before_anybody_works_for_him() -> None:
    class Refusing(FakeRouter):
        async def exchange(self, report: Report, wait: bool) -> Reply:
            reply = await super().exchange(report, wait)
            return replace(reply, verdicts=tuple(replace(one, holds_s=0.1) for one in reply.verdicts))

    router = Refusing()
    router.refuse = {"r"}
    link = Line(router.exchange)
    flood, other = Account(key="flood"), Account(key="other")
    link.check(flood)
    with pytest.raises(BudgetExceededError):
        await link.plan(replace(item("r"), account=flood))
    link.check(other)
    told = []
    for _ in range(2):
        with pytest.raises(BudgetExceededError, match="too dear") as caught:
            link.check(flood)
        told.append(caught.value)
    assert told[0] is not told[1], "what one is told keeps nothing of the others"
    await asyncio.sleep(0.11)
    link.check(flood)
    await link.close()


async def test_the_router_hears_soon_that_the_predictor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "KEEPALIVE_S", 0.01)
    router, state = FakeRouter(), BreakerState.closed
    told: list[BreakerState] = []

    async def exchange(report: Report, wait: bool) -> Reply:
        told.append(report.predictor)
        return await router.exchange(report, wait)

    link = RouterLink(exchange, lambda: state)
    await link.plan(item("r"), forecasts(1))
    link.finish(Done("r", 1e-6))
    await asyncio.sleep(0.05)
    state = BreakerState.open
    await asyncio.sleep(0.05)
    before = len(told)
    await asyncio.sleep(0.05)
    assert told[-1] is BreakerState.open
    assert len(told) == before, "once is enough"
    await link.close()
