"""How much text a request has: one quick walk through it, which reads none of it."""

from __future__ import annotations

from typing import Any


def chars_of(value: Any) -> int:
    """Characters of a string, of token ids, or of what JSON makes of lists and objects; some microseconds a message."""
    chars = 0
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            chars += len(part)
        elif isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list | tuple):
            if part and isinstance(part[0], int):
                chars += len(part)
            else:
                left += part
        else:
            chars += 1
    return chars


def told_chars(content: Any) -> int:
    """Characters, blanks aside, of a prompt, or of what the users of a chat say: a template leaves none of these out.

    Of several prompts each may fit by itself, and token ids are counted already: 0.
    """
    if isinstance(content, str):
        return _dense(content)
    turns = content if isinstance(content, list) else []
    said = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    parts = [part for one in said for part in (one if isinstance(one, list) else [one])]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return sum(_dense(text) for text in texts if isinstance(text, str))


def _dense(text: str) -> int:
    return sum(map(len, text.split()))
