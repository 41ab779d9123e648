"""The text of a chat that is encoded.

All turns are joined by blank lines, the last user turn at the very end. The encoder cuts long texts from
the left (see `apportion.router.prediction.encoder`), so what is encoded is the last user turn with as much before it
as fits. Roles and chat templates stay out: a chat of one user turn reads exactly like the same text given
as a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apportion.router.errors import InvalidRequestError

Message = Mapping[str, Any]


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
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") for part in content]
        return "\n".join(text for text in texts if isinstance(text, str))
    raise InvalidRequestError(
        f"messages[{index}].content is {type(content).__name__}: send a string or a list of content parts",
        param=f"messages[{index}].content",
    )
