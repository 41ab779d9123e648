"""Conversations: where they stay, what that counts for, and that it harms nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apportion.router.assignment import Mip, RobustMip
from apportion.router.batch.continuation import beginnings_of, in_tool_loop
from apportion.router.batch.messages import Decision, EngineReplica, RouteItem, Turn
from apportion.router.batch.planning.planner import BatchPlanner
from apportion.router.batch.policy import Policy, ServedModel
from apportion.router.batch.reservations.availability import Availability
from apportion.router.batch.reservations.conversations import Conversations
from apportion.router.budget import Account
from apportion.router.unpriced import Unpriced
from tests.router.batch.plain_room import MODELS, POLICY, Clock, PlainRoom, estimates, forecasts, guessed

STAYING = replace(POLICY, stay_value=0.1)
CACHING = tuple(
    ServedModel(model.name, replace(model.price, cached_input_usd_per_million=0.0), model.max_model_len)
    for model in MODELS
)
TOOL = [
    {"role": "user", "content": "?"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "7"},
]


def close_call(asked: Sequence[RouteItem]) -> Unpriced:
    """The large model is a little better and ten times as dear."""
    return forecasts(len(asked), success=(0.85, 0.9))


def room(policy: Policy = STAYING) -> PlainRoom:
    found = PlainRoom(close_call, policy=policy)
    found.join(small=8, large=8)
    return found


def turn(number: int, session: str | None = "s", content: Any = "hello", **fields: Any) -> RouteItem:
    read = {"beginnings": beginnings_of(content), "in_tool_loop": in_tool_loop(content)}
    return RouteItem(f"r{number}", session=session, **read, **fields)


async def decided(room: PlainRoom, item: RouteItem) -> Decision:
    (verdict,) = await room.verdicts(item)
    assert isinstance(verdict, Decision), verdict
    return verdict


async def test_a_conversation_stays_where_that_counts_for_more_than_another_model_is_better() -> None:
    here = room()
    first = await decided(here, turn(1, model="small"))
    assert (first.model, first.turn) == ("small", Turn.first)
    second = await decided(here, turn(2))
    assert (second.model, second.turn, second.success) == ("small", Turn.stays, 0.85), "told as it was predicted"
    assert (await decided(here, turn(3, session=None))).turn is None
    assert (await decided(here, turn(4, session=None))).model == "large"
    assert here.reservations.conversations.turns == {Turn.first: 1, Turn.stays: 1}


async def test_a_conversation_moves_where_another_model_is_better_by_more() -> None:
    here = room(replace(POLICY, stay_value=0.04))
    await decided(here, turn(1, model="small"))
    second = await decided(here, turn(2))
    assert (second.model, second.turn) == ("large", Turn.moves)
    assert (await decided(here, turn(3))).turn is Turn.stays


async def test_nobody_steers_the_conversations_of_another_account() -> None:
    here = room()
    await decided(here, turn(1, model="small", account=Account("a")))
    assert (await decided(here, turn(2, account=Account("b")))).turn is Turn.first
    assert (await decided(here, turn(3, account=Account("a", "tenant")))).turn is Turn.first
    assert (await decided(here, turn(4, account=Account("a")))).turn is Turn.stays


async def test_silent_conversations_and_the_oldest_of_too_many_are_forgotten() -> None:
    here = room()
    for number in range(5):  # one more than are remembered
        await decided(here, turn(number, session=f"s{number}"))
    assert (await decided(here, turn(10, session="s0"))).turn is Turn.first
    assert (await decided(here, turn(11, session="s4"))).turn is Turn.stays
    here.clock.now_s += 61
    assert (await decided(here, turn(12, session="s4"))).turn is Turn.first
    assert len(here.reservations.conversations) == 1, "those that are silent for too long are let go of"


async def test_what_is_cached_makes_its_model_cheaper() -> None:
    policy = Policy(CACHING, Mip(), stay_value=0.0, budget_usd_per_request=6e-5)
    here = room(policy)
    first = await decided(here, turn(1, model="large"))  # who names a model pays for it
    second = await decided(here, turn(2))
    assert (first.cost_usd, second.cost_usd) == (pytest.approx(1.5e-4), pytest.approx(5e-5))
    assert (second.model, second.turn) == ("large", Turn.stays), "the ten tokens of the prompt are read already"
    assert (await decided(here, turn(3, session="other"))).model == "small", "large is above the cap"


@pytest.mark.parametrize("chat", [False, True])
async def test_only_what_a_prompt_goes_on_from_is_taken_for_cached(chat: bool) -> None:
    def said(*words: str) -> Any:
        return [{"role": "user", "content": word} for word in words] if chat else " ".join(words)

    here = room(Policy(CACHING, Mip(), stay_value=1.0))
    costs_usd = []
    for number, words in enumerate([("a", "b"), ("a", "b", "c"), ("other",), ("other", "d"), ("other",)]):
        decision = await decided(here, turn(number, model="large", content=said(*words)))
        costs_usd.append(decision.cost_usd)
    assert costs_usd == pytest.approx([1.5e-4, 5e-5, 1.5e-4, 5e-5, 1.5e-4])


async def test_what_nobody_has_counted_is_not_taken_for_cached() -> None:
    here = PlainRoom(guessed, policy=Policy(CACHING, Mip(), stay_value=1.0))
    here.join(small=8, large=8)
    first = await decided(here, turn(1, model="large"))
    second = await decided(here, turn(2))
    assert (second.turn, second.cost_usd) == (Turn.stays, first.cost_usd)


SHOWN = [*TOOL, {"role": "user", "content": [{"type": "image"}]}]  # what the tool gave


@pytest.mark.parametrize(
    ("content", "loops"),
    [
        (TOOL, True),
        (SHOWN, True),
        ([*TOOL, {"role": "user", "content": "?"}], False),
        ([*TOOL, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}], False),
        (SHOWN[-1:], False),
        ("?", False),
    ],
)
def test_results_of_tools_may_be_pictures(content: Any, loops: bool) -> None:
    assert in_tool_loop(content) == loops


async def test_a_tool_loop_stays_on_its_model_unless_it_may_not() -> None:
    policy = replace(POLICY, stay_value=0.0)
    here = room(policy)
    await decided(here, turn(1, model="small"))
    loop = await decided(here, turn(2, content=TOOL))
    assert (loop.model, loop.turn) == ("small", Turn.stays)
    assert (await decided(here, turn(3, content=TOOL, avoid_replicas=("small-0",)))).model == "large"
    assert (await decided(here, turn(4, content=TOOL, model="small"))).turn is Turn.moves, "who names a model gets it"


async def test_a_tool_loop_waits_for_a_slot_of_its_model() -> None:
    here = room(replace(POLICY, stay_value=0.0))
    here.join(small=1)
    first = await decided(here, turn(1, model="small"))
    here.submit(turn(2, content=TOOL))
    await here.scheduler.drain()
    assert "r2" not in here.told
    here.reservations.release(first.id)
    here.scheduler.wake()
    assert (await here.verdict("r2")).model == "small"


async def test_a_tool_loop_goes_on_elsewhere_where_its_model_is_above_the_cap() -> None:
    here = room(replace(POLICY, stay_value=0.0, budget_usd_per_request=6e-5))
    await decided(here, turn(1, model="large"))
    loop = await decided(here, turn(2, content=TOOL))
    assert (loop.model, loop.turn) == ("small", Turn.moves)


async def test_a_preview_says_what_staying_counts_for() -> None:
    here = room()
    await decided(here, turn(1, model="small"))
    plain, loop = await here.previewed(turn(2), turn(3, content=TOOL))
    assert isinstance(plain, Decision)
    assert isinstance(loop, Decision)
    assert [(one.model, one.stay_value, one.success) for one in plain.candidates] == [
        ("small", 0.1, 0.85),
        ("large", 0.0, 0.9),
    ]
    assert [one.reason for one in loop.candidates] == [None, "the request brings the results of another model's calls"]


async def test_robust_plans_know_what_staying_counts_for() -> None:
    sure = replace(estimates(2, success=(0.85, 0.9)), success_samples=np.tile([0.85, 0.9], (3, 2, 1)))
    conversations = Conversations(4, 60.0, Clock())
    conversations.remember(turn(0), None, "small", "small-0", 10.0)
    asked = [turn(1), turn(2, session=None)]
    available = Availability(np.array([4, 4]), np.array([4, 4]), stays=conversations.look(asked, POLICY.names))
    policy = replace(POLICY, strategy=RobustMip(quantile=0.5), stay_value=0.1)
    plan = await BatchPlanner(room().rungs).plan(asked, sure, available, policy)
    assert [verdict.model for verdict in plan.verdicts.values()] == ["small", "large"]


async def test_a_conversation_finds_its_replica_again() -> None:
    here = room()
    for number in range(3):
        here.fleet.announce(EngineReplica(f"small-{number}", "small", f"http://{number}", 8))
    first = await decided(here, turn(1, model="small"))
    for number in range(2, 4):
        here.reservations.release(f"r{number - 1}")
        await decided(here, turn(number + 10, session=None, model="small"))
        assert (await decided(here, turn(number))).replica == first.replica
    assert len({here.told[f"r{number}"].replica for number in (12, 13)}) == 2


def test_a_batch_without_sessions_is_not_looked_at() -> None:
    conversations = Conversations(4, 60.0, Clock())
    conversations.remember(turn(0), Turn.first, "small", "small-0", 10.0)
    conversations.remember(turn(1, session=None), None, "large", "large-0", 10.0)
    assert len(conversations) == 1
    assert conversations.look([turn(2, session=None, content=TOOL)], POLICY.names) is None
