from __future__ import annotations

import pytest

from apportion.router.chat import prompt_text
from apportion.router.errors import InvalidRequestError


def test_a_chat_of_one_turn_reads_like_the_prompt() -> None:
    assert prompt_text("Hello") == prompt_text([{"role": "user", "content": "Hello"}]) == "Hello"


def test_the_last_user_turn_stands_at_the_end() -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "user", "content": [{"type": "text", "text": "Second"}, {"type": "image_url", "image_url": {}}]},
        {"role": "tool", "content": "42"},
    ]
    assert prompt_text(chat) == "Be kind.\n\nFirst\n\n42\n\nSecond"


def test_content_parts_may_be_bare_strings() -> None:
    assert prompt_text([{"role": "user", "content": ["Look", {"type": "text", "text": "here"}]}]) == "Look\nhere"


def test_a_chat_without_a_user_turn_ends_with_its_last_turn() -> None:
    assert prompt_text([{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]) == "a\n\nb"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "empty"),
        ([{"content": "x"}], r"messages\[0\] has no role"),
        (["x"], r"messages\[0\] has no role"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": 7}], r"messages\[1\]\.content is int"),
    ],
)
def test_malformed_messages_are_named(messages: list[object], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        prompt_text(messages)  # type: ignore[arg-type]
