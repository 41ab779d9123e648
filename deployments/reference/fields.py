"""docs/reference/fields.md: what becomes of each request field at each endpoint.

The parser is asked, field by field, so that the page says what it does and not what it was meant to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from apportion.deployments.ingress.known_fields import ENGINE_PATHS, FIELDS, UNREAD_BY_ENGINES, Kind
from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.reference.tables import table
from apportion.router.errors import InvalidRequestError

KINDS: tuple[Kind, ...] = get_args(Kind)
INTRODUCTION = """# Request fields

What becomes of each field at each endpoint, asked of the parser by `make reference`:

* `read`: the router plans with it; the engine gets it too where it knows it.
* `engine`: it reaches vLLM's own layer as it came, and means there what it means.
* `unused`: the API defines it, and nothing here reads it; it is accepted.
* `refused`: a request with it is answered with 400, since nothing is kept here.
* Nothing: the endpoint does not know it; it is left out and named in `x-router-ignored`, or refused where
  `ingress.unknown_fields` is `refuse`.
"""

_CHAT = [{"role": "user", "content": "hi"}]
_OTHER_CHAT = [{"role": "user", "content": "ho"}]
_PARAMETERS = {"type": "object", "properties": {}}
_FUNCTION = {"name": "f", "parameters": _PARAMETERS}
# Requests in which each field that is read makes a difference.
_REQUESTS: Mapping[Kind, dict[str, Any]] = {
    "chat": {"messages": _CHAT, "tools": [{"type": "function", "function": _FUNCTION}], "logprobs": True},
    "completion": {"prompt": "hi"},
    "response": {
        "input": "hi",
        "tools": [{"type": "function", **_FUNCTION}],
        "include": ["message.output_text.logprobs"],
    },
    "message": {"messages": _CHAT, "tools": [{"name": "f", "input_schema": _PARAMETERS}], "max_tokens": 8},
    "message_count": {"messages": _CHAT, "tools": [{"name": "f", "input_schema": _PARAMETERS}]},
    "embedding": {"input": "hi"},
    "tokenize": {"prompt": "hi"},
    "detokenize": {"tokens": [1]},
}
_FORMAT = {"type": "json_schema", "name": "x", "schema": _PARAMETERS}
_VALUES: Mapping[str, Any] = {
    "add_generation_prompt": False,
    "chat_template_kwargs": {"x": 1},
    "continue_final_message": True,
    "documents": [{"text": "x"}],
    "echo": True,
    "ignore_eos": True,
    "include": [],
    "input": "ho",
    "logprobs": 5,
    "max_completion_tokens": 5,
    "max_output_tokens": 5,
    "max_tokens": 5,
    "messages": _OTHER_CHAT,
    "min_tokens": 2,
    "model": "other",
    "n": 2,
    "output_config": {"format": _FORMAT},
    "parallel_tool_calls": True,
    "prompt": "ho",
    "prompt_logprobs": 5,
    "reasoning": {"effort": "low"},
    "reasoning_effort": "low",
    "response_format": _FORMAT,
    "routing": {"min_success": 0.5},
    "stream": True,
    "structured_outputs": {"choice": ["x"]},
    "text": {"format": _FORMAT},
    "thinking": {"type": "disabled"},
    "thinking_token_budget": 5,
    "tokens": [2],
    "tool_choice": "required",
    "tools": [],
    "top_logprobs": 5,
}
_VALUES_OF: Mapping[Kind, dict[str, Any]] = {
    "message": {"tool_choice": {"type": "any"}},
    "message_count": {"tool_choice": {"type": "any"}},
    "response": {"prompt": {"id": "x"}},
}
_BESIDE: Mapping[tuple[Kind, str], dict[str, Any]] = {("tokenize", "messages"): {"prompt": None}}


def fields_page() -> str:
    """The whole page."""
    names = sorted(set().union(*FIELDS.values()))
    rows = [[f"`{name}`", *(treatment(kind, name) for kind in KINDS)] for name in names]
    headings = ["field", *(f"`{ENGINE_PATHS[kind]}`" for kind in KINDS)]
    return "\n".join([INTRODUCTION, *table(headings, rows), ""])


def treatment(kind: Kind, field: str) -> str:
    """What the endpoint does with the field, in one word; empty: it does not know it."""
    if field not in FIELDS[kind]:
        return ""
    without = {"model": "one", **_REQUESTS[kind]}
    value = {**_VALUES, **_VALUES_OF.get(kind, {})}.get(field, "x")
    given = without | {field: value} | _BESIDE.get((kind, field), {})
    try:
        before, after = _parsed(kind, without), _parsed(kind, given)
    except InvalidRequestError:
        return "refused"
    if _plan(before) != _plan(after):
        return "read"
    sent = after.engine_body("one") != before.engine_body("one")
    return "engine" if sent and field not in UNREAD_BY_ENGINES.get(kind, ()) else "unused"


def _parsed(kind: Kind, body: dict[str, Any]) -> ParsedRequest:
    return parse(kind, json.dumps(body).encode(), {}, Rules(("one", "other"), embedders=("one", "other")))


def _plan(parsed: ParsedRequest) -> tuple[Any, ...]:
    """All that prediction and planning see of a request."""
    return replace(parsed.item, id=""), parsed.prompt, parsed.stream, parsed.cost_told
