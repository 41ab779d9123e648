"""What a turn of a conversation goes on from, in some numbers: the router finds it again and reads no prompt."""

from __future__ import annotations

import zlib
from typing import Any

from apportion.router.batch.prompt import Content
from apportion.router.batch.size import chars_of

MOST = 16  # of a chat's beginnings: a turn may add so many messages less one, and is still seen to go on
SIGN_BITS = 32
FINENESS = 8  # of a text's beginnings: between a length and its double; the last eighth of a text is not compared


def beginnings_of(content: Content) -> tuple[int, ...]:
    """What stands for beginnings of a prompt, the longest last: their lengths, and signs of what is in them.

    Of a chat the last ones, with all messages but the newest, but the two newest, and so on; of a text those at some
    lengths, the same for all texts. Token ids and several prompts are no turns of a conversation.
    """
    if isinstance(content, str):
        return _of_text(content)
    if not content or not isinstance(content[0], dict):
        return ()
    chars, found = 0, []
    for count, message in enumerate(content, start=1):
        chars += chars_of(message)
        if count > len(content) - MOST:
            found.append(_signed(count, chars))
    return tuple(found)


def _signed(length: int, sign: int) -> int:
    return length << SIGN_BITS | sign & ((1 << SIGN_BITS) - 1)


def _of_text(text: str) -> tuple[int, ...]:
    sign, start, found = 0, 0, []
    for end in _lengths(len(text)):
        sign, start = zlib.crc32(text[start:end].encode(errors="replace"), sign), end
        found.append(_signed(end, sign))
    return tuple(found)


def _lengths(most: int) -> list[int]:
    """Lengths up to this one, from about a quarter of it on: the same ones for all texts of about that length."""
    top = 1 << most.bit_length() >> 1  # the largest power of two that is no longer
    return [
        length
        for octave in (top // 2, top)
        for length in range(octave, min(2 * octave, most + 1), max(1, octave // FINENESS))
        if length
    ]


def in_tool_loop(content: Content) -> bool:
    """Whether a request brings the result of a call that a model has made, for that model to go on.

    Pictures of a result are a user's turn behind it that says nothing.
    """
    turns: list[Any] = content if isinstance(content, list) else []
    back = 2 if turns and _says_nothing(turns[-1]) else 1
    last = turns[-back] if len(turns) >= back else None
    return isinstance(last, dict) and last.get("role") == "tool"


def _says_nothing(turn: Any) -> bool:
    parts = turn.get("content") if isinstance(turn, dict) else None
    return isinstance(parts, list) and all(isinstance(part, dict) and "text" not in part for part in parts)
