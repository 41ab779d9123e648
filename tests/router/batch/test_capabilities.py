"""A request goes only to models that can do what it asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import Mip
from apportion.router.batch.capabilities import EVERYTHING, Capabilities, able, lack
from apportion.router.batch.messages import Decision, Refusal, RouteItem
from apportion.router.batch.policy import Policy
from apportion.router.errors import InvalidRequestError, UnavailableError
from tests.router.batch.plain_room import MODELS, PlainRoom

PLAIN = Capabilities(chat=1, completions=1, logprobs=20)
CALLER = PLAIN._replace(tools=1)
SMALL, LARGE = MODELS  # the large one is the better


class Room(PlainRoom):
    def __init__(self, small: Capabilities, large: Capabilities, small_slots: int = 50) -> None:
        models = (replace(SMALL, capabilities=small), replace(LARGE, capabilities=large))
        super().__init__(policy=Policy(models, Mip()))
        self.join(**({"small": small_slots} if small_slots else {}), large=50)


def chat(name: str, model: str | None = None, **needs: int) -> RouteItem:
    return RouteItem(name, model=model, needs=Capabilities(chat=1, **needs))


async def test_each_request_of_a_batch_goes_to_a_model_that_can() -> None:
    room = Room(CALLER, PLAIN)
    asked = [chat(f"{kind}{i}", **{kind: 1}) for i in range(10) for kind in ("tools", "logprobs")]
    told = await room.verdicts(*asked)
    assert [verdict.model for verdict in told] == ["small", "large"] * 10


async def test_what_nobody_can_is_refused_with_every_reason() -> None:
    room = Room(CALLER, PLAIN)
    (refusal, other) = await room.verdicts(chat("a", tools=1, logprobs=21), chat("b"))
    assert isinstance(refusal, Refusal)
    assert type(refusal.error) is InvalidRequestError
    assert refusal.error.message == (
        "no model can answer this request; small: tells the log probabilities of at most 20 tokens at a place; "
        "large: calls no tools"
    )
    assert refusal.error.param is None, "there is no one field that keeps all of them from it"
    assert isinstance(other, Decision)


@pytest.mark.parametrize(
    ("needs", "param", "reason"),
    [
        ({"responses": 1}, "input", "does not answer at /v1/responses"),
        ({"messages": 1}, "messages", "does not answer at /v1/messages"),
        ({"embeddings": 1}, "input", "makes no embeddings"),
        ({"tools": 1}, "tools", "calls no tools"),
        ({"structured_outputs": 1}, "response_format", "gives no structured outputs"),
        ({"reasoning": 1}, "reasoning_effort", "does not reason"),
        ({"images": 1}, "messages", "takes no pictures"),
        ({"logprobs": 30}, "logprobs", "at most 20 tokens"),
    ],
)
async def test_a_named_model_is_refused_for_its_own_reason(needs: dict[str, int], param: str, reason: str) -> None:
    room = Room(EVERYTHING, PLAIN)
    (refusal,) = await room.verdicts(chat("a", model="large", **needs))
    assert isinstance(refusal, Refusal)
    assert (refusal.error.status, refusal.error.param) == (400, param)
    assert reason in refusal.error.message
    assert "small" not in refusal.error.message


async def test_candidates_are_told_the_reason() -> None:
    (verdict,) = await Room(CALLER, PLAIN).previewed(chat("a", tools=1))
    assert isinstance(verdict, Decision)
    assert [(one.allowed, one.reason) for one in verdict.candidates] == [(True, None), (False, "calls no tools")]


async def test_the_only_model_that_can_is_away() -> None:
    room = Room(CALLER, PLAIN, small_slots=0)
    (verdict,) = await room.verdicts(chat("a", tools=1))
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, UnavailableError)
    assert verdict.error.message.startswith("no replica of small is ready")
    assert "large: calls no tools" in verdict.error.message


def test_ability_is_the_same_alone_and_in_arrays() -> None:
    rng = np.random.default_rng(0)
    needs = [Capabilities(*row) for row in rng.integers(0, 3, (40, len(PLAIN))) * (rng.random((40, len(PLAIN))) < 0.15)]
    models = [Capabilities(*row) for row in rng.integers(0, 3, (30, len(PLAIN)))]
    found = able(needs, models)
    assert 0.05 < found.mean() < 0.95
    assert found.tolist() == [[lack(one, model) is None for model in models] for one in needs]


async def test_a_model_that_makes_embeddings_is_told_from_one_that_answers() -> None:
    room = Room(Capabilities(embeddings=1), PLAIN)
    embed = RouteItem("e", model="small", prompts=2, sequences=2, needs=Capabilities(embeddings=1))
    made, told, asked = await room.verdicts(embed, chat("a", model="small"), chat("b"))
    assert (made.model, asked.model) == ("small", "large")
    assert told.error.message.endswith(
        "small: makes embeddings and answers nothing; send input to /v1/embeddings instead"
    )
