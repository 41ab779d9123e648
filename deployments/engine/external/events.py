"""A provider's stream on its way: its events as they come, what they say of tokens, and whether it came to its end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from apportion.deployments.engine.external.counted import merged

_BORDER = re.compile(rb"\r?\n\r?\n")
_DONE = b"[DONE]"
_NO_TEXT = frozenset({"finish_reason", "id", "role", "status", "type"})
_LAST = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})


class EventStream:
    """Takes bytes as they come, and gives back whole events.

    Args:
        usage_wanted: events that tell of usage alone go on; the client has asked for them.
        logprobs_hidden: log-probabilities do not go on; the client has not asked for them.

    Attributes:
        logprobs: all that was told of them, as a whole answer has them.
        usage: all that was told of tokens.
        complete: whether the stream has come to its end.
        done: whether `[DONE]` has said so, which does not go on.
        error: what it said instead of going on; None: it has not.
        size: bytes of what was generated, as far as it is text.
    """

    def __init__(self, *, usage_wanted: bool, logprobs_hidden: bool = False) -> None:
        self.usage: dict[str, Any] = {}
        self.logprobs: dict[str, list[Any]] = {}
        self.complete = self.done = False
        self.error: bytes | None = None
        self.size = 0
        self._usage_wanted = usage_wanted
        self._logprobs_hidden = logprobs_hidden
        self._rest = b""

    def events(self, chunk: bytes) -> Iterator[bytes]:
        """The events that are whole now and go on."""
        *whole, self._rest = _BORDER.split(self._rest + chunk)
        for event in whole:
            if (passed := self._passed(event)) is not None:
                yield passed + b"\n\n"

    def _passed(self, event: bytes) -> bytes | None:
        lines = [line for line in event.splitlines() if not line.startswith(b":")]  # comments are this service's own
        event = b"\n".join(lines)
        data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
        if data == _DONE:
            self.complete = self.done = True
            return None
        if not data:
            return event if event.strip() else None
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            return event
        return self._read(told, event, data) if isinstance(told, dict) else event

    def _read(self, told: dict[str, Any], event: bytes, data: bytes) -> bytes | None:
        kind = told.get("type") if isinstance(told.get("type"), str) else None
        if kind == "error" or (kind is None and told.get("error")):
            self.error = data
            return None
        self.complete = self.complete or kind in _LAST
        # Anthropic tells it with the message's beginning and end, the Responses API with the whole response.
        inner: dict[str, Any] = next(
            (told[name] for name in ("message", "response") if isinstance(told.get(name), dict)), {}
        )
        for usage in (inner.get("usage"), told.get("usage")):
            self.usage = merged(self.usage, usage)
        choices = choices_of(told)
        self.size += sum(generated(one.get("delta") or one.get("text")) for one in (told, *choices))
        for choice in choices:
            self._look(choice.get("logprobs"))
        shown = without_logprobs(told) if self._logprobs_hidden and choices else told
        if not self._usage_wanted and kind is None and "usage" in told:
            if told.get("choices") == []:
                return None
            shown = {name: value for name, value in shown.items() if name != "usage"}
        if shown is told:
            return event
        return b"data: " + json.dumps(shown, separators=(",", ":"), ensure_ascii=False).encode()

    def _look(self, logprobs: Any) -> None:
        for name, places in logprobs.items() if isinstance(logprobs, dict) else ():
            if isinstance(places, list):
                self.logprobs.setdefault(name, []).extend(places)


def without_logprobs(told: dict[str, Any]) -> dict[str, Any]:
    """An answer, or a part of it, as it is where nobody has asked for log-probabilities."""
    return {**told, "choices": [{**one, "logprobs": None} for one in choices_of(told)]}


def generated(told: Any) -> int:
    """Bytes of what was generated in an answer or a part of it: its texts, but for those that only name and number."""
    if isinstance(told, str):
        return len(told.encode("utf-8", "replace"))
    if isinstance(told, dict):
        return sum(generated(value) for name, value in told.items() if name not in _NO_TEXT)
    return sum(map(generated, told)) if isinstance(told, list) else 0


def choices_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of an answer, or of a part of it."""
    choices = told.get("choices")
    return [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
