"""What can be counted of a request beside the words that are asked: tools, a schema, pictures, turns, a system prompt.

The same function reads a body that is served and a row that was recorded, so that training and serving agree. It
imports nothing of the project: everything that knows requests may use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

FIELDS = ("tools", "tool_choice", "response_format", "structured_outputs")
"""Fields of a body that are read beside its content."""

_INSTRUCTING = ("system", "developer")
_IMAGES = ("image_url", "input_image", "image")
_AUDIO = ("input_audio", "audio_url", "audio")


class Traits(NamedTuple):
    """Counts of one request.

    `tools`: those that may be called. `structured_outputs`: 1 where the answer must have a form. `images`, `audio`: in
    its messages. `turns`: messages but for instructions. `system_chars`: characters of its instructions, which are
    messages of the roles system and developer.
    """

    tools: int = 0
    structured_outputs: int = 0
    images: int = 0
    audio: int = 0
    turns: int = 1
    system_chars: int = 0


PLAIN = Traits()
"""Those of a prompt, and of a chat of one user turn."""


def traits_of(content: Any, fields: Mapping[str, Any] | None = None) -> Traits:
    """Never fails: what is not written as OpenAI's bodies have it counts for nothing.

    Args:
        content: a chat's messages, their pictures and clips as they came or as placeholders; or anything else, which
            counts as a prompt.
        fields: of its body, `FIELDS` among them.
    """
    counted = _counted(content)
    if not fields:
        return counted
    return counted._replace(tools=tools_offered(fields), structured_outputs=int(wants_structure(fields)))


def tools_offered(fields: Mapping[str, Any]) -> int:
    """How many tools a model may call."""
    tools = fields.get("tools")
    return len(tools) if isinstance(tools, list) and fields.get("tool_choice") != "none" else 0


def wants_structure(fields: Mapping[str, Any]) -> bool:
    """Whether the answer must have a form: JSON, a schema's, a grammar's."""
    form, structure = fields.get("response_format"), fields.get("structured_outputs")
    formed = isinstance(form, Mapping) and form.get("type") not in (None, "text")
    return formed or (isinstance(structure, Mapping) and bool(structure))


def _counted(content: Any) -> Traits:
    messages = [one for one in content if isinstance(one, Mapping)] if isinstance(content, list) else []
    if not messages:
        return PLAIN
    kinds = [part.get("type") for one in messages for part in _parts(one) if isinstance(part, Mapping)]
    instructions = [one for one in messages if one.get("role") in _INSTRUCTING]
    return Traits(
        images=sum(kind in _IMAGES for kind in kinds),
        audio=sum(kind in _AUDIO for kind in kinds),
        turns=len(messages) - len(instructions),
        system_chars=sum(len(text) for one in instructions for text in _texts(one)),
    )


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else [content]


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    for part in _parts(message):
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text
