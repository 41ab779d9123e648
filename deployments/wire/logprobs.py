"""Log-probabilities as OpenAI's APIs tell them in JSON: how they are asked for, and the signals that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.router.signals import Signals, signals_of

# Two would do but for engines that list the token that was written first, and then the likeliest.
_LIKELIEST = 3


def asking_for_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat or a completion, with the question for what signals are made of."""
    asked = {"logprobs": _LIKELIEST} if "prompt" in body else {"logprobs": True, "top_logprobs": _LIKELIEST}
    return {**body, **asked}


def signals_of_choice(choice: Mapping[str, Any]) -> Signals | None:
    """Signals of an answer's choice; None where it tells no log-probabilities, or not those of two tokens at a place.

    Args:
        choice: of a chat or a completion, whole.
    """
    told = choice.get("logprobs")
    if not isinstance(told, Mapping):
        return None
    try:
        places = told.get("content")
        if isinstance(places, list):
            written = [float(place["logprob"]) for place in places]
            likeliest = [[float(one["logprob"]) for one in place["top_logprobs"]] for place in places]
        else:
            written = [float(one) for one in told["token_logprobs"]]
            likeliest = [[float(one) for one in place.values()] for place in told["top_logprobs"]]
        top = [sorted(place)[-2:] for place in likeliest]
        return signals_of(written, [first - second for second, first in top])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
