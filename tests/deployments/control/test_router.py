"""The Router's own class, with a solver of this process in place of an actor."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.routing import RoutingConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control import assembly, exchanges
from apportion.deployments.control.router import Router
from apportion.router.assignment import Assignment, BatchProblem, Strategy, assign
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.messages import (
    Decision,
    Done,
    Ending,
    EngineReplica,
    Held,
    Refusal,
    Reply,
    Report,
    RouteItem,
    Turn,
)
from apportion.router.batch.reservations import fleet as fleet_module
from apportion.router.batch.reservations import unsettled
from apportion.router.budget import Account
from apportion.router.errors import ApportionError, DeadlineError, OverloadedError, RateLimitError
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced
from tests.router.batch.plain_room import forecasts, guessed


class Call:
    """Calls like a method of a deployment handle."""

    def __init__(self, function: Any) -> None:
        self.remote = function


class Solver:
    def __init__(self) -> None:
        self.solve = Call(self._solve)

    async def _solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        return assign(problem, strategy)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Any:
    knowledge = Knowledge(np.array([0.4, 0.9]), frozenset(), (), ("small", "large"))
    monkeypatch.setattr(assembly.Knowledge, "of", lambda _: knowledge)
    monkeypatch.setattr(exchanges, "POLL_S", 0.2)
    monkeypatch.setattr(assembly, "SETTLE_S", 0.0)
    models = [
        {"name": name, "source": "x", "input_usd_per_million": p, "output_usd_per_million": p, "max_model_len": 100}
        for name, p in (("small", 1.0), ("large", 10.0))
    ]
    config = ServiceConfig.model_validate({"models": models, "predictor": {"artefact": "x"}})
    return Router.func_or_class(config, Solver(), {}, {})  # type: ignore[attr-defined]


def report(
    ingress: str,
    number: int = 0,
    items: tuple[RouteItem, ...] = (),
    forecast: Callable[[Sequence[RouteItem]], Unpriced] = lambda items: forecasts(len(items)),
    **fields: Any,
) -> Report:
    """A report with the forecast of its items."""
    return Report(ingress, number, items=items, forecast=forecast(items) if items else None, **fields)


async def join(router: Any, *replicas: tuple[str, str, int]) -> None:
    for name, model, slots in replicas:
        await router.announce(EngineReplica(name, model, f"http://{name}", slots))


def item(name: str, **fields: Any) -> RouteItem:
    return RouteItem(id=name, **fields)


async def test_decided_requests_take_slots_until_they_end(router: Any) -> None:
    await join(router, ("s1", "small", 2), ("l1", "large", 1))
    reply = await router.exchange(report("i", items=(item("a"), item("b"))), True)
    assert sorted(verdict.model for verdict in reply.verdicts) == ["large", "small"]
    assert all(isinstance(verdict, Decision) and verdict.timing is not None for verdict in reply.verdicts)
    assert (await router.state())["in_flight"] == 2
    await router.exchange(report("i", done=(Done("a", 2e-6), Done("b", None, Ending.unsent))), False)
    state = await router.state()
    assert (state["in_flight"], state["reserved_usd"], state["spent_usd"]) == (0, 0, 2e-6)


async def test_a_new_router_waits_for_heartbeats_before_it_refuses(router: Any) -> None:
    router._scheduler._decider._settled_s += 5.0
    reply = asyncio.create_task(router.exchange(report("i", items=(item("a"),)), True))
    await asyncio.sleep(0.02)
    await join(router, ("s1", "small", 2), ("l1", "large", 1))
    assert isinstance((await reply).verdicts[0], Decision)


async def test_a_report_that_is_sent_again_is_not_taken_twice(router: Any) -> None:
    await join(router, ("s1", "small", 4), ("l1", "large", 4))
    first = await router.exchange(report("i", items=(item("a"),)), True)
    again = await router.exchange(report("i", items=(item("a"),)), True)
    assert first.verdicts == again.verdicts
    assert (await router.state())["in_flight"] == 1


async def test_a_new_router_takes_over_what_is_in_flight(router: Any) -> None:
    held = Held("old", "large", "l1", 1, 1e-5)
    await router.exchange(report("i", held=(held, held)), False)
    await join(router, ("s1", "small", 4), ("l1", "large", 1))
    assert (await router.state())["models"]["large"] == {"slots": 1, "free_slots": 0, "asleep": False}
    reply = await router.exchange(report("i", items=(item("a"),)), True)
    assert reply.verdicts[0].model == "small"
    await router.exchange(report("i", done=(Done("old", 3e-6), Done("a", 1e-6))), False)
    assert (await router.state())["in_flight"] == 0
    assert (await router.state())["spent_usd"] == pytest.approx(4e-6)


async def test_a_new_router_gives_nobody_the_slots_of_an_ingress_that_it_has_not_heard_of(router: Any) -> None:
    """Of two ingresses one finds the new router first; what the other one holds still runs at the engine."""
    await join(router, ("l1", "large", 0))  # no slots yet
    held = {f"old{number}": 1 for number in range(3)}
    await router.announce(EngineReplica("s1", "small", "http://s1", 4, running=held))
    reply = await router.exchange(report("first", items=tuple(item(f"r{number}") for number in range(4))), True)
    assert len(reply.verdicts) == 1
    old = tuple(Held(name, "small", "s1", 1, 1e-5) for name in held)
    await router.exchange(report("second", held=old[:2]), False)
    await router.announce(EngineReplica("s1", "small", "http://s1", 4, running=dict.fromkeys(["old0", "old1"], 1)))
    reply = await router.exchange(report("first"), True)
    assert len(reply.verdicts) == 1, "the third has ended, and nobody was there to tell"
    done = tuple(Done(one.id, 1e-6) for one in old)
    await router.exchange(report("second", done=done), False)
    assert len((await router.exchange(report("first"), True)).verdicts) == 2
    assert (await router.state())["models"]["small"]["free_slots"] == 0


async def test_an_end_that_overtakes_what_is_held_is_not_forgotten(router: Any) -> None:
    await join(router, ("l1", "large", 2))
    held = (Held("old", "large", "l1", 1, 1e-5), Held("older", "large", "l1", 1, 1e-5))
    await router.exchange(report("i", done=(Done("old", 1e-5),)), False)
    await router.exchange(report("i", held=held), False)
    assert (await router.state())["in_flight"] == 1
    await router.exchange(report("i", done=(Done("older", 1e-5),)), False)
    state = await router.state()
    assert (state["in_flight"], state["reserved_usd"]) == (0, 0)


async def test_the_higher_priority_gets_the_scarce_slot(router: Any) -> None:
    await join(router, ("s1", "small", 1))
    items = (item("low", priority=-1), item("usual"), item("high", priority=2))
    reply = await router.exchange(report("i", items=items), True)
    assert [verdict.id for verdict in reply.verdicts] == ["high"]
    reply = await router.exchange(report("i", done=(Done("high", 1e-6),)), True)
    assert [verdict.id for verdict in reply.verdicts] == ["usual"]


async def test_a_weightier_request_gets_the_better_model(router: Any) -> None:
    await join(router, ("s1", "small", 4), ("l1", "large", 1))
    reply = await router.exchange(report("i", items=(item("a"), item("b", priority=1), item("c"))), True)
    assert {verdict.id: verdict.model for verdict in reply.verdicts} == {"a": "small", "b": "large", "c": "small"}


async def test_what_waits_past_its_time_is_told_so_and_holds_nothing(router: Any) -> None:
    reply = asyncio.create_task(router.exchange(report("i", items=(item("a", timeout_s=0.05),)), True))
    assert isinstance((await reply).verdicts[0], Refusal)  # no replica at all
    await join(router, ("s1", "small", 1))
    await router.exchange(report("i", items=(item("b"),)), True)
    assert (await router.exchange(report("i", items=(item("c", timeout_s=0.05),)), True)).verdicts == ()
    reply = await router.exchange(report("i", done=(Done("b", 1e-6),)), True)
    assert [type(verdict.error) for verdict in reply.verdicts] == [DeadlineError]
    assert (await router.state())["in_flight"] == 0


async def test_what_nobody_has_predicted_is_planned_by_what_is_known(router: Any) -> None:
    await join(router, ("s1", "small", 99), ("l1", "large", 99))
    for number in range(2):
        asked = report("i", items=(item(f"r{number}"),), forecast=guessed, predictor=BreakerState.open)
        reply = await router.exchange(asked, True)
        assert reply.verdicts[0].rung == "static"
    await router.exchange(report("other"), False)
    assert (await router.state())["parts"] == {"predictor": "open", "solver": "closed"}
    assert (await router.state())["rungs"] == {"static": 2}
    await router.exchange(report("i"), False)
    assert (await router.state())["parts"]["predictor"] == "closed"


async def test_a_request_that_cannot_be_planned_is_refused_alone(router: Any) -> None:
    await join(router, ("s1", "small", 4), ("l1", "large", 4))
    items = (item("a"), item("b", max_tokens=10**400))  # no float holds it
    async with asyncio.timeout(5):
        verdicts = {verdict.id: verdict for verdict in (await router.exchange(report("i", items=items), True)).verdicts}
        if len(verdicts) < 2:
            verdicts |= {verdict.id: verdict for verdict in (await router.exchange(report("i"), True)).verdicts}
    assert isinstance(verdicts["a"], Decision)
    assert type(verdicts["b"].error) is ApportionError
    assert (await router.state())["waiting"] == 0


async def test_an_ingress_that_is_gone_frees_what_it_had(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "INGRESS_TTL_S", 0.5)
    monkeypatch.setattr(unsettled, "WORD_S", 0.1)
    await join(router, ("s1", "small", 1))
    await router.exchange(report("gone", items=(item("a"), item("b"))), True)
    async with asyncio.timeout(10):
        while (await router.state())["reserved_usd"] > 0:
            await asyncio.sleep(0.1)
    assert (await router.state())["in_flight"] == 0
    assert (await router.state())["waiting"] == 0
    assert (await router.state())["spent_usd"] == pytest.approx(15e-6)


async def test_what_its_cancel_has_overtaken_is_not_kept_for_ever(router: Any) -> None:
    await join(router, ("s1", "small", 1))
    await router.exchange(report("i", items=(item("takes the slot"),)), True)
    await router.exchange(report("i", 1, cancelled=("late",)), False)
    await router.exchange(report("i", items=(item("late", timeout_s=0.05),)), False)
    assert "late" in router._exchanges._sessions["i"].undecided
    await asyncio.sleep(0.1)
    await router.exchange(report("i", 2, done=(Done("takes the slot", 1e-6),)), True)
    assert router._exchanges._sessions["i"].undecided == {}
    assert ((await router.state())["waiting"], (await router.state())["in_flight"]) == (0, 0)


async def test_what_never_ends_is_freed(router: Any) -> None:
    await join(router, ("s1", "small", 2))
    await router.exchange(report("i", items=(item("lost"), item("runs"))), True)
    router._exchanges._sessions["i"].in_flight["lost"].since_s -= 1000
    async with asyncio.timeout(10):
        while (await router.state())["in_flight"] > 1:
            await asyncio.sleep(0.1)
    assert list(router._exchanges._sessions["i"].in_flight) == ["runs"]


async def test_only_first_attempts_count_against_a_keys_rate(router: Any) -> None:
    await join(router, ("s1", "small", 9), ("l1", "large", 9))
    router._callers._rates.per_minute = {"alice": 1.0}
    alice = Account(key="alice")
    items = (
        item("first", account=alice),
        item("first-1", account=alice, earlier=1),
        item("told again", account=alice, resent=True),
        item("second", account=alice),
    )
    reply = await router.exchange(report("i", items=items), True)
    reply = Reply("", (*reply.verdicts, *(await router.exchange(report("i"), True)).verdicts))
    refused = {verdict.id: type(verdict.error) for verdict in reply.verdicts if isinstance(verdict, Refusal)}
    assert refused == {"second": RateLimitError}
    assert len(reply.verdicts) == 4


async def test_a_full_queue_refuses(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await join(router, ("s1", "small", 1))
    monkeypatch.setattr(router._scheduler._queue._held, "_max_entries", 2)
    await router.exchange(report("i", items=(item("running"),)), True)
    items = tuple(item(f"r{number}") for number in range(4))
    reply = await router.exchange(report("i", items=items), True)
    assert [type(verdict.error) for verdict in reply.verdicts] == [OverloadedError] * 2


async def test_the_cap_of_the_configuration_outlives_new_prices(router: Any) -> None:
    part = router._reconfiguration
    part._config = part._config.model_copy(update={"routing": RoutingConfig(budget_usd_per_request=2e-6)})
    router.reconfigure({"prices": {"large": {"output_usd_per_million": 3.0}}})
    state = await router.state()
    assert state["budget_usd_per_request"] == 2e-6
    assert state["prices"]["large"] == asdict(ModelPrice(10.0, 3.0))


async def test_new_prices_hold_for_what_is_planned_next(router: Any) -> None:
    await join(router, ("s1", "small", 4), ("l1", "large", 4))
    prices = {
        "large": {"input_usd_per_million": 3.0, "output_usd_per_million": 2.0, "cached_input_usd_per_million": 0.5}
    }
    router.reconfigure({"budget_usd_per_request": 4.5e-5, "prices": prices})
    reply = await router.exchange(report("i", items=(item("a"),)), True)
    decision = reply.verdicts[0]
    assert (decision.model, decision.cost_usd, decision.price) == (
        "large",
        pytest.approx(4e-5),
        ModelPrice(3.0, 2.0, 0.5),
    )
    assert (await router.state())["prices"]["small"] == asdict(ModelPrice(1.0, 1.0))
    router.reconfigure({})
    assert (await router.state())["prices"]["large"]["output_usd_per_million"] == 10.0


async def test_what_a_conversation_counts_for_changes_without_a_restart(router: Any) -> None:
    await join(router, ("s1", "small", 4), ("l1", "large", 4))

    async def turn(number: int, model: str | None = None) -> Decision:
        asked = replace(item(f"r{number}"), model=model, session="s")
        decision = (await router.exchange(report("i", items=(asked,)), True)).verdicts[-1]
        assert isinstance(decision, Decision)
        return decision

    router.reconfigure({"stay_value": 1.0})
    assert (await turn(1, "small")).turn is Turn.first
    assert (await turn(2)).model == "small"
    router.reconfigure({"stay_value": 0.0})
    assert (await turn(3)).model == "large"
    state = await router.state()
    assert (state["sessions"], state["turns"]) == (1, {"first": 1, "stays": 1, "moves": 1})


@pytest.mark.parametrize(
    ("user_config", "said"),
    [
        ({"prices": {"huge": {"input_usd_per_million": 1.0}}}, "huge, which are not served"),
        ({"prices": {"small": {"cached_input_usd_per_million": 2.0}}}, "more than input_usd_per_million 1"),
        ({"strategy": "mipp"}, "mipp"),
        ({"strategi": "mip"}, "strategi"),
        ({"budget_usd_per_request": "a lot"}, "budget_usd_per_request"),
        ({"limits": [{"scope": "service", "window": "day", "usd": 1}]}, "need a `budget` section"),
    ],
)
async def test_a_wrong_policy_is_told_and_changes_nothing(router: Any, user_config: dict[str, Any], said: str) -> None:
    await join(router, ("s1", "small", 4), ("l1", "large", 4))
    router.reconfigure({"budget_usd_per_request": 2e-5})
    before = await router.state()
    router.reconfigure(user_config)
    after = await router.state()
    assert said in after.pop("policy_error")
    assert {**after, "policy_error": None} == before
    reply = await router.exchange(report("i", items=(item("a"),)), True)
    assert isinstance(reply.verdicts[0], Decision)
    router.reconfigure({})
    assert (await router.state())["policy_error"] is None


async def test_an_exchange_that_waits_tells_at_once_of_a_replica_that_fell_silent(
    router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "REPLICA_TTL_S", 0.5)
    monkeypatch.setattr(exchanges, "POLL_S", 5.0)
    await join(router, ("s1", "small", 1))
    first = await router.exchange(report("i", items=(item("a"),)), True)
    assert first.silent == ()
    began_s = time.monotonic()
    reply = await router.exchange(report("i"), True)
    assert reply.silent == ("s1",)
    assert time.monotonic() - began_s < exchanges.POLL_S - 1
