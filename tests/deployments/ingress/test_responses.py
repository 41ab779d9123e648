"""Responses are read as the chats that vLLM makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.ingress.known_fields import RESPONSE_FIELDS
from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.errors import InvalidRequestError

MODELS = ("small",)
USER = {"role": "user", "content": "How many bolts?"}
CALL = {"type": "function_call", "call_id": "c1", "name": "stock", "arguments": '{"item": "bolt"}', "id": "fc_1"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "41"}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "41", "annotations": [], "logprobs": None}],
}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
TOOL = {"type": "function", "name": "stock", "parameters": {"type": "object"}, "strict": True}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "high"}
SEEN = "(picture)"
# Bodies by shape, and the messages that they are.
SHAPES: dict[str, tuple[dict[str, Any], list[tuple[str, Any]]]] = {
    "text": ({"input": "hi"}, [("user", "hi")]),
    "instructions": ({"input": "hi", "instructions": "Be brief."}, [("system", "Be brief."), ("user", "hi")]),
    "roles": (
        {"input": [{"role": "developer", "content": "Be brief."}, USER]},
        [("developer", "Be brief."), ("user", "How many bolts?")],
    ),
    "parts": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": text} for text in ("a", "b")]}]},
        [("user", "a\nb")],
    ),
    "turns": (
        {"input": [USER, SAID, {"type": "message", **USER, "status": None}]},
        [("user", "How many bolts?"), ("assistant", "41"), ("user", "How many bolts?")],
    ),
    "easy_turns": (
        {"input": [USER, {"role": "assistant", "content": "41"}, {"role": "assistant", "content": "or 42"}, USER]},
        [("user", "How many bolts?"), ("assistant", "41"), ("assistant", "or 42"), ("user", "How many bolts?")],
    ),
    "call": (
        {"input": [USER, THOUGHT, CALL, OUTPUT], "tools": [TOOL]},
        [("user", "How many bolts?"), ("assistant", ""), ("tool", "41")],
    ),
    "two_calls": (
        {"input": [USER, SAID, CALL, CALL | {"call_id": "c2"}, OUTPUT, OUTPUT | {"call_id": "c2"}], "tools": [TOOL]},
        [("user", "How many bolts?"), ("assistant", "41"), ("tool", "41"), ("tool", "41")],
    ),
    "output_parts": (
        {"input": [USER, CALL, OUTPUT | {"output": [{"type": "input_text", "text": text} for text in ("4", "1")]}]},
        [("user", "How many bolts?"), ("assistant", ""), ("tool", "4\n1")],
    ),
    "thought_and_said": (
        {"input": [USER, THOUGHT, SAID, USER]},
        [("user", "How many bolts?"), ("assistant", "41"), ("user", "How many bolts?")],
    ),
    "pictures": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}, PICTURE, PICTURE]}, SAID, USER]},
        [("user", f"a\n{SEEN}\n{SEEN}"), ("assistant", "41"), ("user", "How many bolts?")],
    ),
    "shown_outputs": (  # pictures of several calls come after all outputs
        {
            "input": [
                USER,
                CALL,
                CALL | {"call_id": "c2"},
                OUTPUT | {"output": [{"type": "input_text", "text": "41"}, PICTURE]},
                OUTPUT | {"call_id": "c2", "output": [PICTURE]},
                SAID,
                USER,
                CALL | {"call_id": "c3"},
                OUTPUT | {"call_id": "c3", "output": [PICTURE]},
            ],
            "tools": [TOOL],
        },
        [
            ("user", "How many bolts?"),
            ("assistant", ""),
            ("tool", "41"),
            ("tool", ""),
            ("user", f"{SEEN}\n{SEEN}"),
            ("assistant", "41"),
            ("user", "How many bolts?"),
            ("assistant", ""),
            ("tool", ""),
            ("user", SEEN),
        ],
    ),
    "custom": (
        {
            "input": [
                USER,
                {"type": "custom_tool_call", "call_id": "c1", "name": "shell", "input": 'say "ö"'},
                {"type": "custom_tool_call_output", "call_id": "c1", "output": "ö"},
            ],
            "tools": [{"type": "custom", "name": "shell", "description": "Runs it."}],
        },
        [("user", "How many bolts?"), ("assistant", ""), ("tool", "ö")],
    ),
    "namespace": (
        {"input": "hi", "tools": [{"type": "namespace", "name": "crm", "description": "All of it.", "tools": [TOOL]}]},
        [("user", "hi")],
    ),
    "to_continue": (
        {"input": [USER, SAID | {"status": "incomplete"}]},
        [("user", "How many bolts?"), ("assistant", "41")],
    ),
    "thinking": (
        {"input": "hi", "reasoning": {"effort": "low"}, "chat_template_kwargs": {"a": 1}},
        [("user", "hi")],
    ),
}


def read(body: dict[str, Any], **options: Any) -> ParsedRequest:
    return parse("response", json.dumps(body).encode(), {}, Rules(MODELS, **options))


def text(content: Any) -> str:
    if not isinstance(content, list):
        return content or ""
    return "\n".join(SEEN if "image" in part["type"] else part["text"] for part in content)


@pytest.mark.parametrize("shape", SHAPES)
def test_items_are_the_messages_of_a_chat(shape: str) -> None:
    body, messages = SHAPES[shape]
    content = read(body).prompt.content
    assert [(message["role"], text(message.get("content"))) for message in content] == messages


def test_calls_and_thoughts_belong_to_the_turn_that_they_are_of() -> None:
    (_, turn, *_) = read(SHAPES["call"][0]).prompt.content
    assert turn["reasoning"] == "Hm."
    assert turn["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": '{"item": "bolt"}'}}
    ]


def test_the_router_sees_the_longest_answer_tools_and_what_templates_are_told() -> None:
    parsed = read(SHAPES["thinking"][0] | {"max_output_tokens": 7, "tools": [TOOL], "stream": True, "model": "small"})
    item = parsed.item
    assert (item.max_tokens, item.model, parsed.stream) == (7, "small", True)
    assert [tool["function"]["name"] for tool in parsed.prompt.tools or ()] == ["stock"]
    assert parsed.prompt.template_variables == {"a": 1, "reasoning_effort": "low", "enable_thinking": True}
    assert json.loads(parsed.engine_body("small", 3))["max_output_tokens"] == 3


def test_models_that_cannot_do_it_are_told_from_those_that_can() -> None:
    form = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    asked = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "stock"}, "text": form}
    needs = read({"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 3} | asked).item.needs
    assert (needs.chat, needs.tools, needs.tool_choice, needs.structured_outputs, needs.logprobs) == (1, 1, 1, 1, 3)


def test_the_engine_keeps_nothing_and_gets_no_routing() -> None:
    sent = json.loads(read({"input": "hi", "store": True, "routing": {"priority": 0}, "seed": 1}).engine_body("small"))
    assert sent.pop("input") == [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    assert sent == {"model": "small", "store": False, "seed": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [USER], "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "hi", "conversation": {"id": "c"}}, "conversation"),
        ({"input": "hi", "background": True}, "background"),
        ({"input": "hi", "prompt": {"id": "p"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [USER, {"role": "robot", "content": "x"}]}, "input[1].role"),
        ({"input": [USER, CALL | {"arguments": {}}]}, "input[1].arguments"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [OUTPUT | {"output": [{"type": "input_file"}]}]}, "input[0].output[0]"),
        *(
            ({"input": [{"role": "user", "content": [{"type": "input_image"} | given]}]}, "input[0].content[0]")
            for given in (
                {"image_url": "http://inside/secret.png"},
                {"image_url": "file:///etc/passwd"},
                {"image_url": {"url": PICTURE["image_url"]}},
                {"image_url": "data:text/html;base64,QUJD"},
                {"image_url": "data:image/png;base64,no"},
                {"file_id": "file_1"},
            )
        ),
        ({"input": [OUTPUT | {"output": [PICTURE | {"image_url": "http://inside/x.png"}]}]}, "input[0].output[0]"),
        ({"input": [USER, {"role": "developer", "content": [PICTURE]}]}, "input[1].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "input[0].content[0]"),
        ({"input": "hi", "tools": [{"type": "function"}]}, "tools[0].name"),
    ],
)
def test_what_cannot_be_read_or_kept_is_refused_by_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(body)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_pictures_are_counted_and_reach_the_engine_alone() -> None:
    parsed = read({"input": [{"role": "user", "content": [PICTURE | {"file_id": "f", "detail": 5}, PICTURE]}]})
    assert parsed.item.needs.images == 2
    assert parsed.prompt.content == [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]
    (sent,) = json.loads(parsed.engine_body("small"))["input"]
    assert sent["content"] == [PICTURE | {"detail": "auto"}, PICTURE]


def test_tools_that_nothing_here_runs_are_left_out_and_named() -> None:
    body = {"input": "hi", "tools": [{"type": "web_search"}, TOOL], "moderation": {}}
    parsed = read(body)
    assert parsed.ignored == ("moderation", "tools.web_search")
    assert json.loads(parsed.engine_body("small"))["tools"] == [TOOL]
    with pytest.raises(InvalidRequestError, match=r"supplied: tools\.web_search$"):
        read({"input": "hi", "tools": [{"type": "web_search"}]}, refuse_unknown=True)


def test_thoughts_that_another_service_has_encrypted_are_left_out() -> None:
    secret = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
    parsed = read({"input": [USER, secret, SAID, USER]})
    assert [message["role"] for message in parsed.prompt.content] == ["user", "assistant", "user"]
    assert len(json.loads(parsed.engine_body("small"))["input"]) == 3


@pytest.mark.slow  # imports vLLM
@pytest.mark.parametrize("shape", SHAPES)
def test_the_engine_reads_the_same(shape: str) -> None:
    """vLLM's own request and its own construction of messages and tools, of what the engine is sent."""
    protocol = pytest.importorskip("vllm.entrypoints.openai.responses.protocol")
    utils = pytest.importorskip("vllm.entrypoints.openai.responses.utils")
    parsed = read(SHAPES[shape][0])
    request = protocol.ResponsesRequest.model_validate(json.loads(parsed.engine_body("small")))
    messages = utils.construct_input_messages(request_instructions=request.instructions, request_input=request.input)
    ours = parsed.prompt.content
    assert [(one["role"], text(one.get("content"))) for one in messages] == [
        (one["role"], text(one.get("content"))) for one in ours
    ]
    for field in ("tool_calls", "reasoning", "tool_call_id"):
        assert [one.get(field) for one in json.loads(json.dumps(messages, default=dict))] == [
            one.get(field) for one in ours
        ]
    tools = utils.construct_tool_dicts(request.tools, request.tool_choice)
    names = {"name", "description", "parameters"}
    assert [{name: tool["function"].get(name) for name in names} for tool in tools or ()] == [
        {name: tool["function"].get(name) for name in names} for tool in parsed.prompt.tools or ()
    ]
    told = request.build_chat_params(None, "auto").chat_template_kwargs
    variables = {"add_generation_prompt": True, "continue_final_message": False} | dict(
        parsed.prompt.template_variables
    )
    assert {name: value for name, value in told.items() if value is not None} == variables


@pytest.mark.slow  # imports vLLM
def test_known_fields_are_those_that_vllm_and_openai_know() -> None:
    engine = pytest.importorskip("vllm.entrypoints.openai.responses.protocol").ResponsesRequest
    client = pytest.importorskip("openai.types.responses.response_create_params").ResponseCreateParamsBase
    assert RESPONSE_FIELDS - {"routing", "stream"} <= set(engine.model_fields) | set(client.__annotations__)
