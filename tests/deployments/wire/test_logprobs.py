"""Signals out of log-probabilities as OpenAI's APIs, and vLLM's, tell them."""

from __future__ import annotations

from typing import Any

import pytest

from apportion.deployments.wire.logprobs import asking_for_logprobs, signals_of_choice
from apportion.router.signals import Signals

EXPECTED = Signals(-1.25, -2.0, -1.85, 1.5)


def place(written: float, *likeliest: float) -> dict[str, Any]:
    top = [{"token": f"{i}", "logprob": one} for i, one in enumerate(likeliest)]
    return {"token": "x", "logprob": written, "top_logprobs": top}


def test_chats_and_completions_tell_the_same() -> None:
    # The second token was not the likeliest; it may be listed before the likeliest ones.
    chat = {"logprobs": {"content": [place(-0.5, -0.5, -2.5, -9), place(-2, -2, -1, -2, -8)]}}
    completion = {
        "logprobs": {
            "token_logprobs": [-0.5, -2],
            "top_logprobs": [{"a": -0.5, "b": -2.5, "c": -9}, {"d": -2.0, "e": -1.0}],
        }
    }
    assert signals_of_choice(chat) == pytest.approx(EXPECTED)
    assert signals_of_choice(completion) == pytest.approx(EXPECTED)


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"content": None},
        {"content": []},
        {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": []}]},
        {"content": [place(-1.0, -1.0)]},
        {"content": ["x"]},
        {"token_logprobs": [-1.0], "top_logprobs": None},
        {"token_logprobs": [None], "top_logprobs": [{"a": -1.0, "b": -2.0}]},
    ],
)
def test_what_tells_too_little_has_none(told: Any) -> None:
    assert signals_of_choice({"logprobs": told}) is None


def test_each_api_is_asked_in_its_own_way() -> None:
    assert asking_for_logprobs({"messages": []}) == {"messages": [], "logprobs": True, "top_logprobs": 3}
    assert asking_for_logprobs({"prompt": "x"}) == {"prompt": "x", "logprobs": 3}
