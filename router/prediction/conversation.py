"""Messages and tools of a request as chat templates are given them.

The rules are vLLM's (`vllm/renderers/chat_utils.py`), written anew because importing them costs ten seconds and half a
gigabyte; a test compares the two. What OpenAI's schema says is the same reads the same here: absent and null, a string
and a list of one text, arguments of a call as JSON and as a mapping.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from apportion.router.errors import InvalidRequestError

# Types of content parts that are text, and the field that holds it.
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
# Fields that make a part something else than text, whatever its type says.
MEDIA_FIELDS = frozenset(
    {"audio_embeds", "audio_url", "image_embeds", "image_pil", "image_url", "input_audio", "input_image"}
    | {"prompt_embeds", "video_embeds", "video_url"}
)

# What stands in a content for a picture and an audio clip, here and in what templates are given.
PICTURE: Mapping[str, str] = {"type": "image"}
CLIP: Mapping[str, str] = {"type": "audio"}
PLACEHOLDERS = (PICTURE, CLIP)

Message = Mapping[str, Any]


def check_text(part: Any, place: str) -> None:
    """Raises: InvalidRequestError: a content part is no text; names its place and its type."""
    kind = None if isinstance(part, str) else _kind(part)
    if kind is not None:
        raise InvalidRequestError(
            f"{place} is {kind}, which no model here reads; send parts of type text, image_url or input_audio",
            param=place,
        )


def _kind(part: Any) -> str | None:
    """What a part is; None: text."""
    if not isinstance(part, Mapping):
        return "no object"
    named = part.get("type")
    media = sorted(MEDIA_FIELDS & part.keys())
    if isinstance(named, str) and named not in TEXT_PARTS:
        return f"a part of type {named[:64]!r}"
    if media:
        return f"a part with {media[0]!r}"
    if not isinstance(named, str):
        return "a part without a type"
    text = part.get(TEXT_PARTS[named])
    return None if text is None or isinstance(text, str) else f"a part whose {TEXT_PARTS[named]!r} is no text"


def conversation(messages: Sequence[Message], *, as_parts: bool) -> list[dict[str, Any]]:
    """The messages as a template is given them.

    Args:
        as_parts: content as a list of parts, for templates that walk through it; else as one text, without what stands
            in for pictures and clips.

    Raises:
        InvalidRequestError: a content part is no text and no placeholder, or a tool call is none of a function.
    """
    for i, message in enumerate(messages):
        content = message.get("content")
        for k, part in enumerate(content if isinstance(content, list) else ()):
            if part not in PLACEHOLDERS:
                check_text(part, f"messages[{i}].content[{k}]")
    return [_message(message, i, as_parts) for i, message in enumerate(messages)]


def _message(message: Message, index: int, as_parts: bool) -> dict[str, Any]:
    role = message.get("role")
    parts = _parts(message.get("content"))
    # Few templates can walk through a tool's answer.
    walked = as_parts and (role != "tool" or any(part in PLACEHOLDERS for part in parts))
    found: dict[str, Any] = {
        "role": role,
        "content": parts if walked else "\n".join(part["text"] for part in parts if "text" in part),
    }
    if role == "assistant":
        calls = message.get("tool_calls")
        if calls:
            found["tool_calls"] = [_call(call, index, k) for k, call in enumerate(calls)]
        reasoning = message.get("reasoning")
        reasoning = message.get("reasoning_content") if reasoning is None else reasoning
        if reasoning is not None:
            found["reasoning"] = found["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        found["tool_call_id"] = message["tool_call_id"]
    elif role == "developer":
        found["tools"] = message.get("tools")
    if isinstance(message.get("name"), str):
        found["name"] = message["name"]
    return found


def _parts(content: Any) -> list[dict[str, str]]:
    """Texts and placeholders in their order, those without a text left out."""
    if content is None:
        return []
    found = [_part(part) for part in ([content] if isinstance(content, str) else content)]
    return [part for part in found if part is not None]


def _part(part: Any) -> dict[str, str] | None:
    if part in PLACEHOLDERS:
        return dict(part)
    text = part if isinstance(part, str) else part.get(TEXT_PARTS[part["type"]])
    return None if text is None else {"type": "text", "text": text}


def _call(call: Any, index: int, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        place = f"messages[{index}].tool_calls[{number}]"
        raise InvalidRequestError(
            f'{place} is no call of a function; send {{"type": "function", "function": {{...}}}}', param=place
        )
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(given: Any) -> dict[str, Any]:
    """The arguments of a call as a mapping; what is none has spoilt an earlier turn, and must not spoil all later."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return dict(given) if isinstance(given, Mapping) else {}


def tool_objects(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools with the fields that vLLM hands on to templates, in its order; what is no function stays as it is."""
    return None if tools is None else [_tool(tool) for tool in tools]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return dict(tool)
    optional = {name: function[name] for name in ("strict", "defer_loading") if function.get(name) is not None}
    described = {name: function.get(name) for name in ("name", "description", "parameters")}
    return {"type": "function", "function": described | optional}


def template_variables(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat's body says to the template beside messages and tools, read as vLLM reads it."""
    given = body.get("chat_template_kwargs")
    own = dict(given) if isinstance(given, Mapping) else {}
    effort = body.get("reasoning_effort")
    said = {name: body.get(name) for name in ("add_generation_prompt", "continue_final_message", "documents")}
    said["reasoning_effort"] = effort
    if effort is not None and "enable_thinking" not in own:
        said["enable_thinking"] = effort != "none"
    return own | {name: value for name, value in said.items() if value is not None and value != "auto"}
