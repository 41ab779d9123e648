"""What of a prompt the router knows a conversation by."""

from __future__ import annotations

from typing import Any

import pytest

from apportion.router.batch.continuation import MOST, SIGN_BITS, beginnings_of


def chat(*words: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": word} for word in words]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 100, 1_000, 4_097, 100_000])
@pytest.mark.parametrize("more", [0, 1, 50, 100])
def test_a_text_that_goes_on_has_the_longest_beginning_of_the_text_before_it(length: int, more: int) -> None:
    text = "".join(chr(97 + i * i % 23) for i in range(2 * length))
    before, after = text[:length], text[: length + length * more // 100]
    longest = beginnings_of(before)[-1]
    assert longest in beginnings_of(after)
    assert longest >> SIGN_BITS > 0.87 * length
    assert longest not in beginnings_of("!" + after[1:])


def test_a_chat_that_goes_on_by_some_messages_does_too() -> None:
    before = chat(*"abcdefghijklmnopqrstuvwxyz")
    (*_, longest) = beginnings_of(before)
    assert longest in beginnings_of([*before, *chat(*["more"] * (MOST - 1))])
    assert longest not in beginnings_of([*chat("other"), *before])


@pytest.mark.parametrize("content", ["", [], [1, 2, 3], [[1], [2]], ["a", "b"]])
def test_token_ids_and_several_prompts_are_no_conversation(content: Any) -> None:
    assert beginnings_of(content) == ()


def test_they_take_no_more_room_for_long_prompts() -> None:
    for content in ("x" * (1 << 20), chat(*["x" * 1_000] * 1_000)):
        assert len(beginnings_of(content)) <= 2 * MOST
