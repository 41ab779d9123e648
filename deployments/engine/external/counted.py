"""What an answer says of its tokens, in the words of each API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_BESIDE_INPUT = ("cache_read_input_tokens", "cache_creation_input_tokens")  # Anthropic counts them apart


class Counted(NamedTuple):
    """Tokens of an answer: of all of its prompt, of that what came from a cache, and of all that was generated."""

    input: int
    cached: int
    output: int


def counted(usage: Any) -> Counted | None:
    """The tokens that a `usage` tells; None: it tells none.

    Thoughts that are not shown are generated like others: most count them among the output, some in the total only.
    """
    if not isinstance(usage, Mapping):
        return None
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    if prompt is None:
        return None
    output = _first(usage, "completion_tokens", "output_tokens") or 0
    beside = [_count(usage.get(name)) or 0 for name in _BESIDE_INPUT]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    told = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    cached = told if told is not None else _count(usage.get("prompt_cache_hit_tokens")) or beside[0]
    prompt += sum(beside)
    total = _count(usage.get("total_tokens"))
    if total is not None:
        output = max(output, total - prompt)
    return Counted(prompt, min(cached, prompt), output)


def merged(earlier: Any, later: Any) -> dict[str, Any]:
    """Usage that a stream tells in parts; what is told again counts as it was told last."""
    parts = [part for part in (earlier, later) if isinstance(part, Mapping)]
    return {name: value for part in parts for name, value in part.items() if value is not None}


def _first(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
