"""Reads requests of Anthropic's Messages API as the chats that they are to models.

The rules are vLLM's (`vllm/entrypoints/anthropic/serving.py`), written anew because importing them costs seconds; a
test compares the two. What vLLM decides by a model's template is decided here for all models: system turns among the
messages go to the front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apportion.deployments.ingress.media import picture_source
from apportion.deployments.ingress.translation import Translated, objects, part_text, text_at, texts
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.conversation import PICTURE

Block = Mapping[str, Any]
Message = dict[str, Any]

_SAME = ("model", "chat_template_kwargs")
_ROLES = ("user", "assistant")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_BILLING = "x-anthropic-billing-header"  # a text of Claude Code's that is another one with every request


def as_chat(body: dict[str, Any]) -> Translated:
    """The request as a chat.

    Args:
        body: checked for the types of `messages` and `system`.

    Raises:
        InvalidRequestError: a block is of a kind that nothing here reads, or wrong; names its place.
    """
    given = [(f"messages[{i}]", message) for i, message in enumerate(body["messages"])]
    system = _system(body.get("system"), "system")
    system += [text for place, one in given if one.get("role") == "system" for text in _system_turn(one, place)]
    messages: list[Message] = [{"role": "system", "content": "".join(system)}] if system else []
    turns = [_turn(one, place, messages) for place, one in given if one.get("role") != "system"]
    if not turns:
        raise InvalidRequestError("messages: give at least one of a user", param="messages")
    tools, chat_tools, ignored = _tools(body.get("tools"))
    choice, config = body.get("tool_choice"), body.get("output_config")
    effort, thinking = _field(config, "effort"), body.get("thinking")
    if _field(thinking, "type") == "disabled":
        effort = "none"
    chat = {
        **{name: body[name] for name in _SAME if name in body},
        "messages": messages,
        "tools": chat_tools or None,
        "tool_choice": _tool_choice(choice),
        "parallel_tool_calls": None if choice is None else not _field(choice, "disable_parallel_tool_use"),
        "response_format": _response_format(_field(config, "format")),
        "reasoning_effort": effort,
    }
    engine_body = {**body, "messages": turns}
    engine_body.pop("system", None)
    if system:
        engine_body["system"] = "".join(system)
    if "tools" in body:
        engine_body["tools"] = tools
    if _field(thinking, "type") == "enabled":  # a budget is refused by models that do not think, and by short contexts
        engine_body["thinking"] = {"type": "adaptive"}
        ignored = (*ignored, "thinking.budget_tokens")
    return Translated({name: value for name, value in chat.items() if value is not None}, engine_body, ignored)


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else None


def _system(content: Any, place: str) -> list[str]:
    return [text for text in ([] if content is None else texts(content, place)) if not text.startswith(_BILLING)]


def _system_turn(message: Block, place: str) -> list[str]:
    return [text for text in _system(message.get("content"), f"{place}.content") if text]


def _turn(message: Block, place: str, messages: list[Message]) -> dict[str, Any]:
    """Adds a message to those of the chat; the message as the engine gets it."""
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise InvalidRequestError(f"{place}.role: give one of {', '.join(_ROLES)}", param=f"{place}.role")
    if isinstance(content, str):
        messages.append({"role": role, "content": content})
        return {"role": role, "content": content}
    said: Message = {"role": role}
    parts: list[dict[str, str]] = []
    blocks = []
    for k, block in enumerate(objects(content, f"{place}.content")):
        blocks += _block(block, role, f"{place}.content[{k}]", said, parts, messages)
    if parts:
        said["content"] = parts[0].get("text", parts) if len(parts) == 1 else parts
    if role == "assistant" or parts:
        messages.append(said)
    return {"role": role, "content": blocks}


def _block(
    block: Block, role: str, place: str, said: Message, parts: list[dict[str, str]], messages: list[Message]
) -> list[dict[str, Any]]:
    """Adds a block to what its message says, or to the messages; the block as the engine gets it, none if empty.

    Templates take a tool's result as a text. Pictures in it are shown by its message, which comes after all results.
    """
    kind = block.get("type")
    if kind == "text":
        text = text_at(block, "text", place)
        parts += [{"type": "text", "text": text}] if text else []
        return [{"type": "text", "text": text}]
    if kind == "image" and role == "user":
        source = picture_source(block.get("source"), place)
        parts.append(dict(PICTURE))
        return [{"type": "image", "source": source}]
    if kind == "redacted_thinking":
        return []  # nothing here can read it
    if kind == "thinking" and role == "assistant":
        text = text_at(block, "thinking", place)
        said["reasoning"] = said.get("reasoning", "") + text
        return [{"type": "thinking", "thinking": text}]
    if kind == "tool_use" and role == "assistant":
        name, call_id = text_at(block, "name", place), text_at(block, "id", place)
        arguments = block.get("input") or {}
        if not isinstance(arguments, dict):
            raise InvalidRequestError(f"{place}.input: give an object", param=f"{place}.input")
        function = {"name": name, "arguments": json.dumps(arguments)}
        said.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})
        return [{"type": "tool_use", "id": call_id, "name": name, "input": arguments}]
    if kind == "tool_result" and role == "user":
        call_id, (text, pictures) = text_at(block, "tool_use_id", place), _result(block.get("content"), place)
        messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
        parts += [dict(PICTURE) for _ in pictures]
        return [{"type": "tool_result", "tool_use_id": call_id, "content": text}, *pictures]
    raise InvalidRequestError(
        f"{place} is a block of type {str(kind)[:64]!r}, which is not taken here in a message of role {role}; "
        "send text, or other parts to /v1/chat/completions",
        param=place,
    )


def _result(content: Any, place: str) -> tuple[str, list[dict[str, Any]]]:
    """Text and pictures of a tool's result, the latter as the engine gets them."""
    if isinstance(content, str):
        return content, []
    said, pictures = [], []
    for k, block in enumerate(objects(content, f"{place}.content")):
        where = f"{place}.content[{k}]"
        if block.get("type") == "image":
            pictures.append({"type": "image", "source": picture_source(block.get("source"), where)})
        else:
            said.append(part_text(block, where))
    return "\n".join(said), pictures


def _tools(given: Any) -> tuple[list[Any], list[dict[str, Any]], tuple[str, ...]]:
    """Tools for the engine, the same as a chat's, and the names of kinds that nothing here runs, such as searches."""
    kept, chat, ignored = [], [], set()
    for i, tool in enumerate(objects(given, "tools")):
        place, kind = f"tools[{i}]", tool.get("type")
        if kind not in {None, "custom"}:
            ignored.add(f"tools.{str(kind)[:64]}")
            continue
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            raise InvalidRequestError(f"{place}.input_schema: give a JSON schema", param=f"{place}.input_schema")
        described = {field: tool.get(field) for field in ("description", "strict", "defer_loading")}
        function = {
            "name": text_at(tool, "name", place),
            "parameters": {**schema, "type": schema.get("type", "object")},
        }
        chat.append({"type": "function", "function": {**function, **described}})
        kept.append(tool)
    return kept, chat, tuple(sorted(ignored))


def _tool_choice(given: Any) -> Any:
    kind = _field(given, "type")
    if kind == "tool":
        return {"type": "function", "function": {"name": _field(given, "name")}}
    return _CHOICES.get(kind) if isinstance(kind, str) else None


def _response_format(given: Any) -> dict[str, Any] | None:
    if _field(given, "type") != "json_schema":
        return None
    return {"type": "json_schema", "json_schema": {"schema": _field(given, "schema")}}
