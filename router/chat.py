"""Chats as people write them down, and the text of a chat that is encoded.

All turns are joined by blank lines, the last user turn at the very end. The encoder cuts long texts from
the left (see `apportion.router.prediction.encoder`), so what is encoded is the last user turn with as much before it
as fits. Roles and chat templates stay out: a chat of one user turn reads exactly like the same text given
as a prompt.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from apportion.router.errors import InvalidRequestError

Message = Mapping[str, Any]
_BRACKETS = {("[", "]"), ("(", ")"), ("{", "}")}
_MAPPINGS = re.compile(r"\}\s+\{(?=['\"])")


def flattened(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line of OpenAI's Batch API (`custom_id`, `method`, `url`, `body`) as one object: its body's fields and
    `query_id`; any other row as it is.
    """
    body = row.get("body")
    if not isinstance(body, Mapping):
        return row
    outside = {name: value for name, value in row.items() if name not in {"body", "method", "url"}}
    custom_id = outside.pop("custom_id", None)
    return {**body, **({} if custom_id is None else {"query_id": custom_id}), **outside}


def content_of(row: Mapping[str, Any]) -> Any:
    """What a row asks: its `prompt`, or `messages` where there is none; a chat in its printed form is a chat again.

    None where the row asks nothing.
    """
    given = row.get("prompt")
    given = row.get("messages") if given is None else given
    chat = chat_of(printed(given) if isinstance(given, str) else given)
    return given if chat is None else chat


def chat_of(value: Any) -> list[dict[str, Any]] | None:
    """The messages that a value is: a list or tuple of them, one alone, or the `messages` of a body; else None."""
    if isinstance(value, Mapping):
        value = [value] if "role" in value else value.get("messages")
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in value):
        return [dict(message) for message in value]
    return None


def joined(contents: Sequence[Any]) -> list[Any]:
    """The contents; where every text among them is a printed list of strings (RouterBench's are), these are user turns,
    joined by blank lines.
    """
    turns: dict[int, str] = {}
    for place, content in enumerate(contents):
        if isinstance(content, str):
            found = printed(content)
            if not isinstance(found, list | tuple) or not _are_strings(found):
                return list(contents)
            turns[place] = "\n\n".join(found)
    return [turns.get(place, content) for place, content in enumerate(contents)]


def _are_strings(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def printed(text: str) -> Any:
    """The list, tuple or mapping that the text is the printed form of, in JSON, Python or numpy; None if of none."""
    text = text.strip()
    if (text[:1], text[-1:]) not in _BRACKETS:
        return None
    for read in (json.loads, _python_literal, _numpy_literal):
        try:
            return read(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _python_literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backslash that Python would rather see doubled
        return ast.literal_eval(text)


def _numpy_literal(text: str) -> Any:
    """A list of mappings without commas between them, as a table of chats has them when it is written as CSV."""
    if _MAPPINGS.search(text) is None:
        raise ValueError("no mappings beside each other")
    return _python_literal(_MAPPINGS.sub("}, {", text))


def prompt_text(messages: str | Sequence[Message]) -> str:
    """The text to encode of a prompt (returned as it is) or of OpenAI chat messages.

    Content may be a string, a list of parts (their `text` is used, images and audio are left out) or None
    (an assistant turn that only calls tools). Raises InvalidRequestError on anything else.
    """
    if isinstance(messages, str):
        return messages
    if not messages:
        raise InvalidRequestError("messages: empty, send at least one message", param="messages")
    turns = [(_role(message, i), message_text(message, i)) for i, message in enumerate(messages)]
    last_user = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=len(turns) - 1)
    ordered = [*turns[:last_user], *turns[last_user + 1 :], turns[last_user]]
    return "\n\n".join(text for _, text in ordered if text)


def _role(message: Message, index: int) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise InvalidRequestError(
            f"messages[{index}] has no role: send an object with a string role and content",
            param=f"messages[{index}].role",
        )
    return role


def message_text(message: Message, index: int) -> str:
    """The text of the `index`-th message: its content, or the texts among its content parts."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping | str) for part in content):
        texts = [part if isinstance(part, str) else part.get("text") for part in content]
        return "\n".join(text for text in texts if isinstance(text, str))
    raise InvalidRequestError(
        f"messages[{index}].content is {type(content).__name__}: send a string or a list of content parts",
        param=f"messages[{index}].content",
    )


def request_text(content: Any) -> str:
    """The text to encode; token ids have none that all models share, so they are predicted from an empty one."""
    if isinstance(content, str):
        return content
    if content and all(isinstance(part, str) for part in content):
        return "\n".join(content)
    if content and isinstance(content[0], dict):
        return prompt_text(content)
    return ""
