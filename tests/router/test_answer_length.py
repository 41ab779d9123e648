from __future__ import annotations

from typing import Any

import pytest

from apportion.router.answer_length import AS_MANY_AS_FIT, least_tokens


@pytest.mark.parametrize(
    ("body", "longest", "least"),
    [
        ({}, 9, 0),
        ({"min_tokens": 5}, 9, 5),
        ({"min_tokens": 5}, None, 5),
        ({"min_tokens": 20}, 9, 9),
        ({"min_tokens": -3}, 9, 0),
        ({"min_tokens": "many"}, 9, 0),
        ({"ignore_eos": True}, 9, 9),
        ({"ignore_eos": True}, None, AS_MANY_AS_FIT),
        ({"ignore_eos": True, "stop": ["\n"], "min_tokens": 4}, 9, 4),
        ({"ignore_eos": True, "stop_token_ids": [7]}, 9, 0),
        ({"ignore_eos": "yes"}, 9, 0),
    ],
)
def test_what_a_request_says_of_the_least_length(body: dict[str, Any], longest: int | None, least: int) -> None:
    assert least_tokens(body, longest) == least
