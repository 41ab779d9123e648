"""A request of another API as the chat that it is to models, and a chat's messages as engines take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.conversation import TEXT_PARTS


@dataclass(frozen=True, slots=True)
class Translated:
    """What the router reads, and what the engine gets.

    `chat` is a body of the chat endpoint that models are told the same with; `body` the request's own, brought into the
    shape that vLLM's layer reads as `chat` says; `ignored` names what nothing here understands.
    """

    chat: dict[str, Any]
    body: dict[str, Any]
    ignored: tuple[str, ...] = ()


def objects(value: Any, place: str) -> Sequence[Mapping[str, Any]]:
    """A list of objects; nothing given is none.

    Raises:
        InvalidRequestError: it is something else; names the place.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequestError(f"{place}: give a list of objects", param=place)
    for i, one in enumerate(value):
        if not isinstance(one, dict):
            raise InvalidRequestError(f"{place}[{i}]: give an object", param=f"{place}[{i}]")
    return value


def text_at(holder: Mapping[str, Any], field: str, place: str) -> str:
    """The text in a field.

    Raises:
        InvalidRequestError: it holds none; names the place.
    """
    value = holder.get(field)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{place}.{field}: give a text", param=f"{place}.{field}")
    return value


def texts(content: Any, place: str) -> list[str]:
    """The texts of a content: one, or parts that are all text.

    Raises:
        InvalidRequestError: a part is no text; names its place and its type.
    """
    if isinstance(content, str):
        return [content]
    return [part_text(part, f"{place}[{k}]") for k, part in enumerate(objects(content, place))]


def part_text(part: Mapping[str, Any], place: str) -> str:
    """The text of a part.

    Raises:
        InvalidRequestError: it is none; names its place and its type.
    """
    kind = part.get("type")
    text = part.get(TEXT_PARTS[kind]) if isinstance(kind, str) and kind in TEXT_PARTS else None
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"{place} is a part of type {str(kind)[:64]!r}, which is not taken here; send text, or other parts to "
            "/v1/chat/completions",
            param=place,
        )
    return text


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """A chat's message as every engine takes it: clients send parts that are bare strings and an empty list of calls
    where there are none, leave out arguments and types of calls, and give arguments as objects.
    """
    plain = dict(message)
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        plain["content"] = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    if isinstance(calls, list):
        plain["tool_calls"] = [_plain_call(call) for call in calls]
        if not calls:
            del plain["tool_calls"]
    return plain


def _plain_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call  # whoever reads it says what is wrong
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}
