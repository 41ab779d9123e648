from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from apportion.deployments.config.capabilities import CapabilitiesConfig
from apportion.deployments.ingress import router_state
from apportion.deployments.ingress.router_state import PRESENT_S, SETTLING_S, STATE_AGE_S, RouterState
from tests.deployments.local_router import NAMES, configuration
from tests.router.batch.plain_room import Clock

MODELS = configuration(None).models


class RouterOfTest:
    """Tells how many slots every model has, unless it is away or hangs."""

    def __init__(self) -> None:
        self.slots, self.asked = 4, 0
        self.away = self.hangs = False

    async def state(self, max_age_s: float) -> dict[str, Any]:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise ConnectionError("gone")
        models = {name: {"slots": self.slots, "free_slots": self.slots} for name in NAMES}
        return {"models": models, "parts": {"predictor": "closed"}, "policy_error": None, "prices": {}}


@pytest.fixture
def router() -> RouterOfTest:
    return RouterOfTest()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(router: RouterOfTest, clock: Clock) -> RouterState:
    return RouterState(router.state, MODELS, clock)


async def test_who_is_ready_asks_nobody(state: RouterState, router: RouterOfTest) -> None:
    await state.health()
    for _ in range(3):
        assert await state.ready() == list(NAMES)
    assert router.asked == 1


async def test_a_service_that_can_answer_is_ready_at_once(state: RouterState, router: RouterOfTest) -> None:
    router.away = True
    assert await state.ready() == []
    router.away, router.slots = False, 0
    assert await state.ready() == []
    router.slots = 4
    assert await state.ready() == list(NAMES), "whatever was heard a moment ago"
    asked = router.asked
    router.hangs = True
    assert await state.ready() == list(NAMES)
    assert router.asked == asked


async def test_whoever_asks_a_router_that_hangs_is_told_so_soon(
    state: RouterState, router: RouterOfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_state, "READY_PATIENCE_S", 0.02)
    router.hangs = True
    assert await asyncio.gather(*(state.ready() for _ in range(20))) == [[]] * 20
    assert router.asked == 1, "once for all of them"


async def test_a_router_that_restarts_leaves_the_ingress_ready(
    state: RouterState, router: RouterOfTest, clock: Clock
) -> None:
    await state.health()
    router.away = True
    clock.now_s += 10
    healthy, told = await state.health()
    assert (healthy, told) == (False, {"healthy": False, "parts": {"router": "open"}})
    assert await state.ready()
    router.away, router.slots = False, 0  # a new router has not heard of its engines yet
    assert not (await state.health())[0]
    assert await state.ready()
    clock.now_s += SETTLING_S
    await state.health()
    assert not await state.ready(), "there are no engines"
    router.slots = 4
    clock.now_s += STATE_AGE_S
    await state.health()
    router.away = True
    clock.now_s += PRESENT_S
    assert await state.ready()
    clock.now_s += 1
    assert not await state.ready(), "there is no router"


async def test_health_is_asked_once_a_second_whoever_looks(
    state: RouterState, router: RouterOfTest, clock: Clock
) -> None:
    for _ in range(3):
        healthy = await asyncio.gather(*(state.health() for _ in range(50)))
        assert all(one for one, _ in healthy)
    assert router.asked == 1
    clock.now_s += STATE_AGE_S
    await state.health()
    assert router.asked == 2


async def test_a_router_that_hangs_is_no_healthy_one(
    state: RouterState, router: RouterOfTest, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_state, "STATE_TIMEOUT_S", 0.05)
    await state.health()
    router.hangs = True
    clock.now_s += 2
    assert not (await state.health())[0]


async def test_an_idle_ingress_hears_of_the_router(router: RouterOfTest) -> None:
    state = RouterState(router.state, MODELS)
    state.listen()
    deadline_s = time.monotonic() + 5
    while not router.asked:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    router.away = True
    assert await state.ready()
    state.close()


async def test_prices_outlive_a_router_that_is_away(state: RouterState, router: RouterOfTest, clock: Clock) -> None:
    priced = {"prices": {NAMES[0]: {"input_usd_per_million": 7.0}}}

    async def told(max_age_s: float) -> dict[str, Any]:
        return await router.state(max_age_s) | priced

    state = RouterState(told, MODELS, clock)
    await state.health()
    router.away = True
    clock.now_s += 5
    assert (await state.described((NAMES[0],), NAMES))[0]["input_usd_per_million"] == 7.0


async def test_a_model_that_is_to_have_no_replica_makes_nobody_unhealthy(router: RouterOfTest, clock: Clock) -> None:
    spare = MODELS[0].model_copy(update={"replica_groups": ()})
    told = await router.state(0.0)
    told["models"][spare.name] = {"slots": 0, "free_slots": 0}

    async def tell(_: float) -> dict[str, Any]:
        return told

    assert (await RouterState(tell, (spare, *MODELS[1:]), clock).health())[0]
    assert not (await RouterState(tell, MODELS, clock).health())[0]


async def test_a_model_that_sleeps_can_answer_and_says_so(router: RouterOfTest, clock: Clock) -> None:
    router.slots = 0
    told = await router.state(0.0)
    told["models"][NAMES[0]]["asleep"] = True

    async def tell(_: float) -> dict[str, Any]:
        return told

    state = RouterState(tell, MODELS[:1], clock)
    assert (await state.health())[0]
    assert (await state.ready(), state.asleep) == ([NAMES[0]], [NAMES[0]])
    assert (await state.described(NAMES[:1], NAMES))[0]["asleep"]


async def test_a_model_says_whether_auto_may_choose_it(router: RouterOfTest, clock: Clock) -> None:
    async def told(max_age_s: float) -> dict[str, Any]:
        return await router.state(max_age_s) | {"in_auto": {NAMES[0]: True, NAMES[1]: False}}

    described = await RouterState(told, MODELS, clock).described(("auto", *NAMES[:3]), NAMES)
    assert [one.get("in_auto") for one in described] == [None, True, False, None]
    assert "in_auto" not in described[3], "a router that does not serve it yet says nothing of it"


async def test_auto_can_do_what_any_of_its_models_can_and_tells_what_all_can(router: RouterOfTest) -> None:
    parser = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "max_logprobs": -1}
    wren = MODELS[0].model_copy(update={"engine_args": parser, "max_model_len": 50})
    eyes = CapabilitiesConfig(images=2, tokens_per_image=9, logprobs=False)
    owl = MODELS[1].model_copy(update={"capabilities": eyes})
    state = RouterState(router.state, (wren, owl, *MODELS[2:]))
    auto, told, seeing = await state.described(("auto", "wren", "finch"), NAMES)
    assert (told["capabilities"]["tools"], told["max_logprobs"], told["max_model_len"]) == (True, None, 50)
    assert (seeing["input_modalities"], seeing["max_images"]) == (["text", "image"], 2)
    assert (auto["max_model_len"], auto["input_modalities"], auto["max_images"]) == (100, ["text", "image"], 2)
    assert (auto["capabilities"]["tools"], auto["capabilities"]["reasoning"]) == (True, False)
    sure = auto["guaranteed"]
    assert (sure["max_model_len"], sure["input_modalities"], sure["max_logprobs"]) == (50, ["text"], 0)
    endpoints = ["chat", "completions", "responses", "messages", "tokenize"]
    assert {name for name, can in sure["capabilities"].items() if can} == {*endpoints, "structured_outputs"}
    (narrow,) = await state.described(("auto",), ("lark", "heron"))
    assert not narrow["capabilities"]["tools"], "the caller may not use the model that has them"
    assert (await state.described(("auto",), ()))[0].keys() == {"id", "object", "created", "owned_by"}


async def test_auto_is_without_models_that_are_served_by_name_only(router: RouterOfTest) -> None:
    async def told(max_age_s: float) -> dict[str, Any]:
        return await router.state(max_age_s) | {"in_auto": dict.fromkeys(NAMES, True) | {"wren": False}}

    wren = MODELS[0].model_copy(update={"max_model_len": 500})
    (auto,) = await RouterState(told, (wren, *MODELS[1:])).described(("auto",), NAMES)
    assert auto["max_model_len"] == 100
