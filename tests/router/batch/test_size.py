from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from apportion.router.batch.messages import RouteItem

TOOLS = [{"type": "function", "function": {"name": "f", "description": "x" * 10_000}}]


@pytest.mark.parametrize(
    ("fields", "chars", "least_bytes"),
    [
        ({"content": "x" * 10_000}, 10_000, 10_000),
        ({"content": "\N{GRINNING FACE}" * 10_000}, 10_000, 40_000),
        ({"content": [1] * 10_000}, 10_000, 80_000),
        ({"content": [[1] * 5_000] * 2}, 10_000, 80_000),
        ({"content": ["x" * 5_000] * 2}, 10_000, 10_000),
        ({"content": [{"role": "user", "content": "x" * 9_996}]}, 10_000, 10_000),
        ({"content": "", "tools": TOOLS}, 10_009, 10_000),
        ({"content": "", "template_variables": {"documents": [{"text": "x" * 10_000}]}}, 10_000, 10_000),
        ({"content": [{"role": "user", "content": [[] for _ in range(1_000)]}]}, 4, 40_000),
    ],
)
def test_the_size_of_a_request_is_its_text_and_about_its_memory(
    fields: dict[str, Any], chars: int, least_bytes: int
) -> None:
    size = RouteItem("one", **fields).size
    assert size.chars == chars
    assert least_bytes <= size.held_bytes < 10 * least_bytes


def test_the_size_goes_with_the_content() -> None:
    item = RouteItem("one", "x" * 1_000)
    assert pickle.loads(pickle.dumps(item)).size == item.size
    assert replace(item, content="").size.chars == 0
    assert item.again([], 1.0).size == item.size
