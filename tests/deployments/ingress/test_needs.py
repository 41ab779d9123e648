from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.batch.capabilities import UNLIMITED, Capabilities

TOOL = {"type": "function", "function": {"name": "stock"}}


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, {}),
        ({"tools": [TOOL]}, {"tools": 1}),
        ({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}, {"tools": 1}),
        ({"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": True}, {}),
        ({"tools": []}, {}),
        ({"tools": None, "tool_choice": None, "reasoning_effort": None, "response_format": None, "logprobs": None}, {}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tools": 1, "tool_choice": 1}),
        ({"tools": [TOOL], "tool_choice": TOOL}, {"tools": 1, "tool_choice": 1}),
        ({"tools": [TOOL], "parallel_tool_calls": True}, {"tools": 1, "parallel_tool_calls": 1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"structured_outputs": 1}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"structured_outputs": 1}),
        ({"reasoning_effort": "none"}, {}),
        ({"reasoning_effort": "low"}, {"reasoning": 1}),
        ({"thinking_token_budget": 0}, {"reasoning": 1}),
        ({"logprobs": False}, {}),
        ({"logprobs": True}, {"logprobs": 1}),
        ({"logprobs": True, "top_logprobs": 7}, {"logprobs": 7}),
        ({"prompt_logprobs": -1}, {"logprobs": UNLIMITED, "prompt_logprobs": 1}),
        ({"prompt_logprobs": 0}, {"logprobs": 1, "prompt_logprobs": 1}),
        ({"prompt_logprobs": None, "echo": False}, {}),
        ({"echo": True}, {"prompt_logprobs": 1}),  # vLLM takes top_logprobs, which is 0 where it is not given
        ({"logprobs": True, "top_logprobs": 10**30}, {"logprobs": UNLIMITED}),
        # Of the wrong type: the engine says so.
        ({"tool_choice": [], "reasoning_effort": "none", "logprobs": "x", "response_format": 5}, {}),
        ({"tools": [TOOL], "tool_choice": {}, "reasoning_effort": {}}, {"tools": 1, "tool_choice": 1, "reasoning": 1}),
    ],
)
def test_a_chat_asks_for(fields: dict[str, Any], needed: dict[str, int]) -> None:
    body = {"messages": [{"role": "user", "content": "How many bolts?"}], **fields}
    item = parse("chat", json.dumps(body).encode(), {}, Rules(("m",))).item
    assert item.needs == Capabilities(chat=1, **needed)


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, {}),
        ({"logprobs": 0}, {"logprobs": 1}),
        ({"logprobs": 5, "prompt_logprobs": 6}, {"logprobs": 6, "prompt_logprobs": 1}),
        ({"echo": True}, {}),
        ({"echo": True, "logprobs": 0}, {"logprobs": 1, "prompt_logprobs": 1}),
    ],
)
def test_a_completion_asks_for(fields: dict[str, Any], needed: dict[str, int]) -> None:
    item = parse("completion", json.dumps({"prompt": "a", **fields}).encode(), {}, Rules(("m",))).item
    assert item.needs == Capabilities(completions=1, **needed)
