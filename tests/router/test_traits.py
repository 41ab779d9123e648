from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.router.chat import prompt_text
from apportion.router.traits import PLAIN, Traits, traits_of

ASK = {"role": "user", "content": "How many bolts?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TOOL = {"type": "function", "function": {"name": "stock"}}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}


@pytest.mark.parametrize(
    ("content", "fields", "traits"),
    [
        ("text", {}, PLAIN),
        ("", {}, PLAIN),
        (["one", "two"], {}, PLAIN),
        ([[1, 2], [3]], {}, PLAIN),
        ([ASK], {}, PLAIN),
        ([ASK], {"tools": None, "tool_choice": None, "response_format": None, "structured_outputs": None}, PLAIN),
        ([ASK], {"tools": [], "response_format": {"type": "text"}}, PLAIN),
        ([ASK], {"tools": [TOOL, TOOL]}, Traits(tools=2)),
        ([ASK], {"tools": [TOOL], "tool_choice": "none"}, PLAIN),
        ([ASK], {"tools": [TOOL], "tool_choice": "required"}, Traits(tools=1)),
        ([ASK], {"response_format": {"type": "json_object"}}, Traits(structured_outputs=1)),
        ("text", {"structured_outputs": {"choice": ["a"]}}, Traits(structured_outputs=1)),
        ([{"role": "system", "content": "Be brief."}, ASK], {}, Traits(system_chars=9)),
        (
            [{"role": "developer", "content": [{"type": "text", "text": "Be"}, "brief"]}, ASK],
            {},
            Traits(system_chars=7),
        ),
        ([ASK, CALL, {"role": "tool", "content": "7"}], {"tools": [TOOL]}, Traits(tools=1, turns=3)),
        ([{"role": "user", "content": [PICTURE, {"type": "text", "text": "a"}, PICTURE]}], {}, Traits(images=2)),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "audio"}]}], {}, Traits(images=1, audio=1)),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], {}, Traits(audio=1)),
        # What is not written as OpenAI's bodies have it.
        (
            [{"role": ["system"], "content": {"text": 5}}, {}],
            {"tools": {"a": 1}, "response_format": 5},
            Traits(turns=2),
        ),
        ([{"role": "user", "content": [[PICTURE], None, {"type": []}]}], {"structured_outputs": True}, PLAIN),
    ],
)
def test_what_a_request_is_beside_its_words(content: Any, fields: dict[str, Any], traits: Traits) -> None:
    assert traits_of(content, fields) == traits


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tools", "response_format", "tool_choice"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON)
def test_nothing_is_too_odd(content: Any, fields: Any) -> None:
    counts = traits_of(content, fields if isinstance(fields, dict) else {"tools": fields, "response_format": fields})
    assert all(isinstance(count, int) and count >= 0 for count in counts)


def test_a_string_among_the_parts_of_a_content_is_read() -> None:
    """Engines take it, so a request must not fail for what predicts it."""
    assert prompt_text([{"role": "user", "content": ["Look", {"type": "text", "text": "here"}, {"text": None}]}]) == (
        "Look\nhere"
    )
