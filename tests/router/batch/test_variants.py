"""Variants of models in a batch: columns of their own that share the slots, breakers and limits of one engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import Mip
from apportion.router.batch.capabilities import Lack
from apportion.router.batch.messages import Decision, Done, Ending, Held, Refusal, RouteItem, RoutingAsk, Turn
from apportion.router.batch.policy import Policy, ServedModel
from apportion.router.errors import InvalidRequestError, UnknownModelError
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced, gathered
from apportion.router.variants import covers, engines_of, meets, model_of, variant_name
from tests.router.batch.plain_room import PlainRoom, forecasts, items

WARM = Lack("temperature", "sets temperature otherwise than the request")
NAMES = ("qwen@fast", "qwen@think", "small")
PRICE = ModelPrice(1.0, 1.0)
POLICY = Policy(
    (
        ServedModel("qwen@fast", PRICE, 100),
        ServedModel("qwen@think", PRICE, 100, max_tokens=40),
        ServedModel("small", PRICE, 100),
    ),
    Mip(),
)


def room(success: Sequence[float] = (0.5, 0.9, 0.1), **slots: int) -> PlainRoom:
    def forecast(items: Sequence[RouteItem]) -> Unpriced:
        return forecasts(len(items), tuple(success), models=NAMES)

    made = PlainRoom(forecast=forecast, policy=POLICY)
    made.join(**slots)
    return made


def test_names_of_variants() -> None:
    assert variant_name("qwen", "think") == "qwen@think"
    assert [model_of(name) for name in ("qwen@think", "a@b@c", "qwen", "@x")] == ["qwen", "a@b", "qwen", "@x"]
    assert covers(["qwen"], "qwen@think")
    assert covers(["qwen@think"], "qwen@think")
    assert not covers(["qwen@think"], "qwen")
    assert meets(["qwen@think"], "qwen")
    assert not meets(["qwen@think"], "qwen@fast")
    engines, places = engines_of(NAMES)
    assert engines == POLICY.engines == ("qwen", "small")
    assert places.tolist() == [0, 0, 1]
    assert Policy(POLICY.models[1:], Mip()).row_of_column is None


async def test_the_best_variants_share_their_engines_slots() -> None:
    service = room(qwen=3, small=2)
    verdicts = await service.verdicts(*items(5))
    told = [verdict.model for verdict in verdicts if isinstance(verdict, Decision)]
    assert sorted(told) == ["qwen@think"] * 3 + ["small"] * 2
    assert service.fleet.free_slots().tolist() == [0, 0]


async def test_no_more_sequences_than_slots_whatever_comes_and_ends() -> None:
    rng = np.random.default_rng(0)

    def forecast(items: Sequence[RouteItem]) -> Unpriced:
        made = forecasts(len(items), (0.5, 0.5, 0.5), models=NAMES)
        made.table[0] = rng.random((len(items), 3))
        return made

    service = PlainRoom(forecast=forecast, policy=POLICY)
    service.join(qwen=7, small=4)
    running: dict[str, Decision] = {}
    sequences: dict[str, int] = {}
    for turn in range(25):
        sent = [
            RouteItem(f"{turn}-{i}", sequences=int(rng.integers(1, 4)), model=rng.choice([None, "qwen", "qwen@fast"]))
            for i in range(int(rng.integers(1, 9)))
        ]
        service.submit(*sent)
        await service.scheduler.drain()
        sequences |= {item.id: item.sequences for item in sent}
        running |= {name: one for name, one in service.told.items() if isinstance(one, Decision)}
        service.told.clear()
        held = {"qwen": 0, "small": 0}
        for name, decision in running.items():
            held[model_of(decision.model)] += sequences[name]
        assert held["qwen"] <= 7
        assert held["small"] <= 4
        assert service.fleet.free_slots().tolist() == [7 - held["qwen"], 4 - held["small"]]
        for name in list(running)[: int(rng.integers(0, 6))]:
            del running[name]
            service.end(Done(name, 1e-6))
        service.scheduler.wake()
    assert service.scheduler.waiting > 0, "slots were short"


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        (RouteItem("r", model="qwen"), "qwen@think"),
        (RouteItem("r", model="qwen@fast"), "qwen@fast"),
        (RouteItem("r", ask=RoutingAsk(models=("small", "qwen@fast"))), "qwen@fast"),
        (RouteItem("r", model="qwen", ask=RoutingAsk(permitted=("qwen@fast", "small"))), "qwen@fast"),
        (RouteItem("r", ask=RoutingAsk(permitted=("qwen",))), "qwen@think"),
        (RouteItem("r", ask=RoutingAsk(unfit={"qwen@think": WARM})), "qwen@fast"),
        (RouteItem("r", model="qwen", ask=RoutingAsk(unfit={"qwen@think": WARM})), "qwen@fast"),
    ],
)
async def test_a_request_may_name_a_model_or_a_variant(asked: RouteItem, answers: str) -> None:
    (verdict,) = await room(qwen=1, small=1).verdicts(asked)
    assert isinstance(verdict, Decision)
    assert verdict.model == answers
    assert verdict.replica == f"{model_of(answers)}-0"


async def test_who_leaves_no_variant_is_told_why() -> None:
    service = room(qwen=1, small=1)
    both = RoutingAsk(unfit={"qwen@fast": WARM, "qwen@think": WARM})
    (refused,) = await service.verdicts(RouteItem("a", model="qwen", ask=both))
    assert isinstance(refused, Refusal)
    assert isinstance(refused.error, InvalidRequestError)
    assert refused.error.param == "temperature"
    assert "qwen@fast, qwen@think: sets temperature otherwise than the request" in refused.error.message
    (unknown,) = await service.verdicts(RouteItem("b", model="qwen@slow"))
    assert isinstance(unknown, Refusal)
    assert isinstance(unknown.error, UnknownModelError)


async def test_a_variants_answers_end_at_its_limit_or_the_requests() -> None:
    service = room(qwen=3)
    asked = [RouteItem(f"{most}", model="qwen@think", max_tokens=most) for most in (None, 10, 60)]
    verdicts = await service.verdicts(*asked)
    assert [verdict.max_tokens for verdict in verdicts if isinstance(verdict, Decision)] == [40, None, 40]
    (free,) = await room(qwen=1).verdicts(RouteItem("r", model="qwen@fast"))
    assert isinstance(free, Decision)
    assert free.max_tokens is None


async def test_after_failures_no_variant_of_the_same_model_is_tried() -> None:
    service = room(qwen=4, small=1)
    (first,) = await service.verdicts(RouteItem("r"))
    assert isinstance(first, Decision)
    assert first.model == "qwen@think"
    item = RouteItem("r").again([first, first], 10.0)
    assert item.avoid_models == ("qwen", "qwen")
    (other,) = await service.verdicts(item)
    assert isinstance(other, Decision)
    assert other.model == "small"
    # The only replica has failed it: no variant is there for another attempt at all.
    (last,) = await service.verdicts(RouteItem("s", model="qwen").again([first], 10.0))
    assert isinstance(last, Refusal)


async def test_a_breaker_is_its_models() -> None:
    service = room(qwen=2, small=1)
    for i in range(5):
        await service.verdicts(RouteItem(f"f{i}", model="qwen@fast"))
        service.end(Done(f"f{i}", None, Ending.unreachable))
    (verdict,) = await service.verdicts(RouteItem("r"))
    assert isinstance(verdict, Decision)
    assert verdict.model == "small"


async def test_what_a_router_before_had_sent_holds_its_models_slots() -> None:
    service = room(qwen=2, small=1)
    service.reservations.adopt(Held("old", "qwen@think", "qwen-0", 2, 0.1))
    assert service.fleet.free_slots().tolist() == [0, 1]
    service.end(Done("old", 0.1))
    assert service.fleet.free_slots().tolist() == [2, 1]


async def test_a_conversation_stays_on_its_model_in_any_variant() -> None:
    service = room(qwen=2, small=2)
    (first,) = await service.verdicts(RouteItem("a", model="qwen@fast", session="s"))
    (loop,) = await service.verdicts(RouteItem("b", session="s", in_tool_loop=True))
    (moved,) = await service.verdicts(RouteItem("c", model="small", session="s"))
    assert [verdict.turn for verdict in (first, loop, moved) if isinstance(verdict, Decision)] == [
        Turn.first,
        Turn.stays,
        Turn.moves,
    ]
    assert isinstance(loop, Decision)
    assert loop.model == "qwen@think"


async def test_the_variant_that_is_in_time_answers_and_all_have_the_slots_of_their_engine() -> None:
    service = room(qwen=2, small=2)
    service.scheduler.policy = replace(POLICY, max_seconds=1.0)
    for column in (0, 2) * 3:
        service.speeds.learn(column, 2.0, prompt_tokens=10, answer_tokens=10, running=1)
    lengths = np.array([4.0, 40.0, 40.0])  # of what thinks, and of what does not
    unpriced = forecasts(1, (0.5, 0.9, 0.1), models=NAMES)
    unpriced.table[3:5] = lengths
    service.forecast = lambda items: gathered([(unpriced, 0)] * len(items))
    verdicts = await service.verdicts(*items(3))
    assert sorted(verdict.model for verdict in verdicts) == ["qwen@fast", "qwen@fast", "small"]
