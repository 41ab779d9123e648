"""What `/openapi.json` says of bodies that are read by hand: FastAPI would parse them before we could bound them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from apportion.deployments.ingress.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    MessageBody,
    MessageCountBody,
    ResponseBody,
    TokenizeBody,
)
from apportion.deployments.ingress.feedback import FeedbackBody
from apportion.deployments.ingress.known_fields import FIELDS

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MESSAGE_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
ERRORS = {
    "400": "The request is wrong; `param` names the field.",
    "401": "The API key is missing or not known.",
    "402": "The budget does not pay for this request, now or later.",
    "403": "The caller may not ask for this; another may.",
    "404": "The model is not served here, or the answer, file or batch is none of the caller's.",
    "413": "The body is too large.",
    "415": "The body's content encoding is not supported.",
    "429": "Not now: see `retry-after`.",
    "503": "Nothing that may answer works.",
    "504": "The request's time is up.",
}


def schema_of(body: type[BaseModel], fields: frozenset[str]) -> dict[str, Any]:
    """Of a body, which may hold these fields beside those that it names."""
    raw = body.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = raw.pop("$defs", {})
    schema: dict[str, Any] = _inlined(raw, definitions)
    # Fields that the engine checks are named here and typed there.
    schema["properties"] = {name: {} for name in sorted(fields)} | schema["properties"]
    schema["additionalProperties"] = True
    return schema


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(child, definitions) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    return {name: _inlined(child, definitions) for name, child in node.items()}


def operation(
    schema: dict[str, Any], error: dict[str, Any] = _ERROR, media_type: str = "application/json"
) -> dict[str, Any]:
    """What FastAPI adds to a route: its body, and its errors."""
    content = {"application/json": {"schema": error}}
    return {
        "requestBody": {"required": True, "content": {media_type: {"schema": schema}}},
        "responses": {status: {"description": text, "content": content} for status, text in ERRORS.items()},
    }


_CHAT = schema_of(ChatBody, FIELDS["chat"])
_COMPLETION = schema_of(CompletionBody, FIELDS["completion"])
CHAT_OPERATION = operation(_CHAT)
COMPLETION_OPERATION = operation(_COMPLETION)
EMBEDDING_OPERATION = operation(schema_of(EmbeddingBody, FIELDS["embedding"]))
TOKENIZE_OPERATION = operation(schema_of(TokenizeBody, FIELDS["tokenize"]))
DETOKENIZE_OPERATION = operation(schema_of(DetokenizeBody, FIELDS["detokenize"]))
RESPONSE_OPERATION = operation(schema_of(ResponseBody, FIELDS["response"]))
MESSAGE_OPERATION = operation(schema_of(MessageBody, FIELDS["message"]), _MESSAGE_ERROR)
MESSAGE_COUNT_OPERATION = operation(schema_of(MessageCountBody, FIELDS["message_count"]), _MESSAGE_ERROR)
FEEDBACK_OPERATION = operation(FeedbackBody.model_json_schema())
ROUTE_OPERATION = operation(
    {
        "type": "object",
        "required": ["requests"],
        "properties": {"requests": {"type": "array", "minItems": 1, "items": {"anyOf": [_CHAT, _COMPLETION]}}},
    }
)
