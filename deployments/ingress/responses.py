"""Reads requests of OpenAI's Responses API as the chats that they are to models.

The rules are vLLM's (`vllm/entrypoints/openai/responses/utils.py`), written anew because importing them costs seconds;
a test compares the two. Items go to the engine with what it reads only: clients send back what they were answered,
with more or fewer fields than vLLM expects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apportion.deployments.ingress.media import picture_url
from apportion.deployments.ingress.translation import Translated, objects, part_text, text_at, texts
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.conversation import PICTURE

Item = Mapping[str, Any]
Message = dict[str, Any]

_STATE = {
    "previous_response_id": "answers are not kept here; send the whole conversation as input",
    "conversation": "conversations are not kept here; send the whole conversation as input",
    "prompt": "prompts are not kept here; send instructions and input",
    "background": "answers are not kept here, so none can be fetched later; wait for it, or stream it",
}
_PARTIAL = {"in_progress", "incomplete"}  # of a last item that the model is to continue
_FREE_TEXT = {  # what vLLM makes of a tool that takes any text
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The freeform text payload for this tool."}},
    "required": ["input"],
    "additionalProperties": False,
}
_ROLES = {"user", "assistant", "system", "developer"}
_OUTPUTS = {"function_call_output", "custom_tool_call_output"}
_DETAILS = {"low", "high", "auto", "original"}
_SAME = ("model", "parallel_tool_calls", "top_logprobs", "structured_outputs", "chat_template_kwargs")


def as_chat(body: dict[str, Any]) -> Translated:
    """The request as a chat.

    Args:
        body: checked for the types of `input` and `instructions`.

    Raises:
        InvalidRequestError: it needs what is not kept or not read here, or an item is wrong; names its place.
    """
    for field, reason in _STATE.items():
        if body.get(field):
            raise InvalidRequestError(f"{field}: {reason}", param=field)
    messages: list[Message] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    given = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    items = _items(given, messages)
    tools, chat_tools, ignored = _tools(body.get("tools"))
    partial = bool(items) and items[-1].get("status") in _PARTIAL
    reasoning = body.get("reasoning")
    chat = {
        **{name: body[name] for name in _SAME if name in body},
        "messages": messages,
        "tools": chat_tools or None,
        "tool_choice": _tool_choice(body.get("tool_choice")),
        "response_format": _response_format(body.get("text")),
        "logprobs": "message.output_text.logprobs" in (body.get("include") or ()) or None,
        "reasoning_effort": reasoning.get("effort") if isinstance(reasoning, dict) else None,
        "continue_final_message": partial or None,
        "add_generation_prompt": False if partial else None,
    }
    engine_body = {**body, "input": items, "store": False} | ({"tools": tools} if "tools" in body else {})
    engine_body.pop("background", None)
    return Translated({name: value for name, value in chat.items() if value is not None}, engine_body, ignored)


def _items(given: Sequence[Item], messages: list[Message]) -> list[dict[str, Any]]:
    """Adds items to the messages; the items as the engine gets them.

    Templates take a tool's output as a text. Pictures in it come after all outputs, as if the user showed them.
    """
    items: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for i, one in enumerate(given):
        item, place = one, f"input[{i}]"
        if item.get("type") in _OUTPUTS:
            parts = _parts(item.get("output"), f"{place}.output")
            item = {**item, "output": "\n".join(part["text"] for part in parts if "text" in part)}
            shown += [part for part in parts if "text" not in part]
        elif shown:
            items.append(_turn("user", shown, messages))
            shown = []
        read = _read(item, place, messages)
        items += [] if read is None else [read]
    return [*items, _turn("user", shown, messages)] if shown else items


def _read(item: Item, place: str, messages: list[Message]) -> dict[str, Any] | None:
    """Adds an item to the messages; the item as the engine gets it, None if it says nothing."""
    kind = item.get("type") or ("message" if "role" in item else None)
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise InvalidRequestError(
            f"{place} is an item of type {str(kind)[:64]!r}; send one of {', '.join(_READERS)}", param=place
        )
    return reader(item, place, messages)


def _message(item: Item, place: str, messages: list[Message]) -> dict[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidRequestError(f"{place}.role: give one of {', '.join(sorted(_ROLES))}", param=f"{place}.role")
    content, place = item.get("content"), f"{place}.content"
    if role == "user":
        return _turn(role, _parts(content, place), messages)
    said = texts(content, place)
    if role != "assistant":
        return _turn(role, [{"type": "input_text", "text": text} for text in said], messages)
    text = "".join(said)
    _add_to_turn(messages, "content", text)
    if item.get("status") in _PARTIAL:
        part = {"type": "output_text", "text": text, "annotations": []}
        return {"type": "message", "role": role, "status": item["status"], "content": [part]}
    return {"type": "message", "role": role, "content": text}


def _turn(role: str, parts: list[dict[str, Any]], messages: list[Message]) -> dict[str, Any]:
    messages.append({"role": role, "content": [part if "text" in part else dict(PICTURE) for part in parts]})
    return {"type": "message", "role": role, "content": parts}


def _parts(content: Any, place: str) -> list[dict[str, Any]]:
    """A content's texts and pictures as the engine gets them."""
    given = [{"type": "text", "text": content}] if isinstance(content, str) else objects(content, place)
    return [_part(part, f"{place}[{k}]") for k, part in enumerate(given)]


def _part(part: Item, place: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind != "input_image":
        return {"type": "input_text", "text": part_text(part, place)}
    detail = part.get("detail")
    url = picture_url(part.get("image_url"), f"{place}.image_url", place)
    return {"type": kind, "image_url": url, "detail": detail if detail in _DETAILS else "auto"}


def _function_call(item: Item, place: str, messages: list[Message]) -> dict[str, Any]:
    read = {name: text_at(item, name, place) for name in ("call_id", "name", "arguments")}
    namespace = {"namespace": text_at(item, "namespace", place)} if item.get("namespace") else {}
    _call(messages, read["call_id"], _flat(namespace.get("namespace"), read["name"]), read["arguments"])
    return {"type": "function_call", **read, **namespace}


def _custom_call(item: Item, place: str, messages: list[Message]) -> dict[str, Any]:
    read = {name: text_at(item, name, place) for name in ("call_id", "name", "input")}
    _call(messages, read["call_id"], read["name"], json.dumps({"input": read["input"]}, ensure_ascii=False))
    return {"type": "custom_tool_call", **read}


def _call(messages: list[Message], call_id: str, name: str, arguments: str) -> None:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "tool_calls": [call]})


def _output(item: Item, place: str, messages: list[Message]) -> dict[str, Any]:
    call_id = text_at(item, "call_id", place)
    messages.append({"role": "tool", "tool_call_id": call_id, "content": item["output"]})
    return {"type": item["type"], "call_id": call_id, "output": item["output"]}


def _reasoning(item: Item, place: str, messages: list[Message]) -> dict[str, Any] | None:
    """What other services have encrypted cannot be read here; what is left is its summary."""
    parts = item.get("content") or item.get("summary")
    text = "\n".join(text_at(part, "text", place) for part in objects(parts, f"{place}.content"))
    if not text:
        return None
    _add_to_turn(messages, "reasoning", text)
    status = {"status": item["status"]} if item.get("status") in _PARTIAL else {}
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}], **status}


_READERS: dict[str, Callable[[Item, str, list[Message]], dict[str, Any] | None]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output,
    "reasoning": _reasoning,
}


def _add_to_turn(messages: list[Message], field: str, text: str) -> None:
    """One turn of an assistant may be several items."""
    if messages and messages[-1]["role"] == "assistant" and field not in messages[-1]:
        messages[-1][field] = text
    else:
        messages.append({"role": "assistant", field: text})


def _tools(given: Any) -> tuple[list[Any], list[dict[str, Any]], tuple[str, ...]]:
    """Tools for the engine, the same as a chat's, and the names of kinds that nothing here runs, such as searches."""
    kept, chat, ignored = [], [], set()
    for i, tool in enumerate(objects(given, "tools")):
        kind, place = tool.get("type"), f"tools[{i}]"
        if kind == "function":
            chat.append(_function(tool, text_at(tool, "name", place)))
        elif kind == "custom":
            chat.append(_function({**tool, "parameters": _FREE_TEXT}, text_at(tool, "name", place)))
        elif kind == "namespace":
            inner = [one for one in objects(tool.get("tools"), f"{place}.tools") if one.get("type") == "function"]
            space = text_at(tool, "name", place)
            chat += [_function(one, _flat(space, text_at(one, "name", f"{place}.tools"))) for one in inner]
        else:
            ignored.add(f"tools.{str(kind)[:64]}")
            continue
        kept.append(tool)
    return kept, chat, tuple(sorted(ignored))


def _function(tool: Item, name: str) -> dict[str, Any]:
    described = {field: tool.get(field) for field in ("description", "parameters", "strict", "defer_loading")}
    return {"type": "function", "function": {"name": name, **described}}


def _flat(namespace: str | None, name: str) -> str:
    return f"{namespace}__{name}" if namespace else name


def _tool_choice(given: Any) -> Any:
    if isinstance(given, dict) and given.get("type") in {"function", "custom"}:
        return {"type": "function", "function": {"name": given.get("name")}}
    return given


def _response_format(text: Any) -> dict[str, Any] | None:
    given = text.get("format") if isinstance(text, dict) else None
    if not isinstance(given, dict) or given.get("type") not in {"json_schema", "json_object"}:
        return None
    return {"type": given["type"]} | ({"json_schema": given} if given["type"] == "json_schema" else {})
