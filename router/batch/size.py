"""How large a request is: one quick walk through it, which reads none of its text."""

from __future__ import annotations

from typing import Any, NamedTuple

ID_BYTES = 28  # of a token's id, besides its place in the list


class Size(NamedTuple):
    """`chars`: about how much text there is to read; `held_bytes`: about what it takes in memory."""

    chars: int
    held_bytes: int


def size_of(value: Any) -> Size:
    """The size of a string, of token ids, or of what JSON makes of lists and objects; some microseconds a message."""
    chars = held_bytes = 0
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
                held_bytes += ID_BYTES * len(part)
            else:
                left += part
        else:
            chars += 1
        held_bytes += part.__sizeof__()
    return Size(chars, held_bytes)
