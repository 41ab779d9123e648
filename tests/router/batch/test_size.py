from __future__ import annotations

from typing import Any

import pytest

from apportion.router.batch.prompt import Prompt

TOOLS = [{"type": "function", "function": {"name": "f", "description": "x" * 10_000}}]


@pytest.mark.parametrize(
    ("fields", "chars"),
    [
        ({"content": "x" * 10_000}, 10_000),
        ({"content": "\N{GRINNING FACE}" * 10_000}, 10_000),
        ({"content": [1] * 10_000}, 10_000),
        ({"content": [[1] * 5_000] * 2}, 10_000),
        ({"content": ["x" * 5_000] * 2}, 10_000),
        ({"content": [{"role": "user", "content": "x" * 9_996}]}, 10_000),
        ({"content": "", "tools": TOOLS}, 10_009),
        ({"content": "", "template_variables": {"documents": [{"text": "x" * 10_000}]}}, 10_000),
        ({"content": [{"role": "user", "content": [[] for _ in range(1_000)]}]}, 4),
    ],
)
def test_the_length_of_a_prompt_is_that_of_all_its_text(fields: dict[str, Any], chars: int) -> None:
    assert Prompt(**fields).chars == chars
