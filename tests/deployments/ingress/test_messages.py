"""Anthropic's messages are read as the chats that vLLM makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.ingress.known_fields import MESSAGE_COUNT_FIELDS, MESSAGE_FIELDS
from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.errors import InvalidRequestError

MODELS = ("small",)
USER = {"role": "user", "content": "How many bolts?"}
TOOL = {"name": "stock", "description": "Counts.", "input_schema": {"properties": {"item": {"type": "string"}}}}
CALL = {"type": "tool_use", "id": "c1", "name": "stock", "input": {"item": "bölt"}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
RESULT = {
    "type": "tool_result",
    "tool_use_id": "c1",
    "content": [{"type": "text", "text": text} for text in ("4", "1")],
}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
SEEN = "(picture)"


def blocks(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in texts]


# Bodies by shape, and the messages that they are.
SHAPES: dict[str, tuple[dict[str, Any], list[tuple[str, Any]]]] = {
    "plain": ({"messages": [USER]}, [("user", "How many bolts?")]),
    "system": ({"system": "Be brief.", "messages": [USER]}, [("system", "Be brief."), ("user", "How many bolts?")]),
    "system_blocks": (
        {"system": blocks("x-anthropic-billing-header: 1", "Be ", "brief."), "messages": [USER]},
        [("system", "Be brief."), ("user", "How many bolts?")],
    ),
    "system_inline": (
        {"system": "Be brief.", "messages": [USER, {"role": "system", "content": "Be kind."}, USER]},
        [("system", "Be brief.Be kind."), ("user", "How many bolts?"), ("user", "How many bolts?")],
    ),
    "blocks": ({"messages": [{"role": "user", "content": blocks("a", "", "b")}]}, [("user", "a\nb")]),
    "turns": (
        {"messages": [USER, {"role": "assistant", "content": blocks("41")}, USER]},
        [("user", "How many bolts?"), ("assistant", "41"), ("user", "How many bolts?")],
    ),
    "call": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [THOUGHT, *blocks("Let me see."), CALL, CALL | {"id": "c2"}]},
                {
                    "role": "user",
                    "content": [RESULT, {"type": "tool_result", "tool_use_id": "c2"}, *blocks("And now?")],
                },
            ],
            "tools": [TOOL],
            "tool_choice": {"type": "any"},
        },
        [
            ("user", "How many bolts?"),
            ("assistant", "Let me see."),
            ("tool", "4\n1"),
            ("tool", ""),
            ("user", "And now?"),
        ],
    ),
    "pictures": (
        {"messages": [{"role": "user", "content": [PICTURE, *blocks("a"), PICTURE]}]},
        [("user", f"{SEEN}\na\n{SEEN}")],
    ),
    "one_picture": ({"messages": [{"role": "user", "content": [PICTURE]}]}, [("user", SEEN)]),
    "shown_results": (  # pictures of several calls come after all results
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [CALL, CALL | {"id": "c2"}]},
                {
                    "role": "user",
                    "content": [
                        RESULT | {"content": [*blocks("41"), PICTURE]},
                        RESULT | {"tool_use_id": "c2", "content": [PICTURE]},
                        *blocks("And now?"),
                    ],
                },
            ],
        },
        [
            ("user", "How many bolts?"),
            ("assistant", ""),
            ("tool", "41"),
            ("tool", ""),
            ("user", f"{SEEN}\n{SEEN}\nAnd now?"),
        ],
    ),
    "silent_call": (
        {"messages": [USER, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]},
        [("user", "How many bolts?"), ("assistant", ""), ("tool", "4\n1")],
    ),
    "redacted": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}, USER]},
        [("user", "How many bolts?"), ("assistant", ""), ("user", "How many bolts?")],
    ),
    "effort": (
        {"messages": [USER], "output_config": {"effort": "low"}, "chat_template_kwargs": {"a": 1}},
        [("user", "How many bolts?")],
    ),
    "thinking": (
        {"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 1024}},
        [("user", USER["content"])],
    ),
    "no_thinking": ({"messages": [USER], "thinking": {"type": "disabled"}}, [("user", USER["content"])]),
}


def read(body: dict[str, Any], kind: Any = "message", **options: Any) -> ParsedRequest:
    given = {"max_tokens": 8} | body if kind == "message" else body
    return parse(kind, json.dumps(given).encode(), {}, Rules(MODELS, **options))


def text(content: Any) -> str:
    if not isinstance(content, list):
        return content or ""
    return "\n".join(SEEN if "image" in part["type"] else part["text"] for part in content)


@pytest.mark.parametrize("kind", ["message", "message_count"])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_the_messages_of_a_chat(shape: str, kind: str) -> None:
    body, messages = SHAPES[shape]
    content = read(body, kind).prompt.content
    assert [(message["role"], text(message.get("content"))) for message in content] == messages


def test_calls_and_thoughts_belong_to_their_turn() -> None:
    turn = read(SHAPES["call"][0]).prompt.content[1]
    assert turn["reasoning"] == "Hm."
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"item": "bölt"}


def test_the_router_sees_the_longest_answer_and_what_a_model_must_be_able_to_do() -> None:
    schema = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    parsed = read(SHAPES["call"][0] | {"max_tokens": 7, "stream": True, "model": "small", "output_config": schema})
    item = parsed.item
    assert (item.max_tokens, item.model, parsed.stream) == (7, "small", True)
    assert (item.needs.chat, item.needs.tools, item.needs.tool_choice, item.needs.structured_outputs) == (1, 1, 1, 1)
    assert json.loads(parsed.engine_body("small", 3))["max_tokens"] == 3
    assert read(SHAPES["no_thinking"][0]).prompt.template_variables == {
        "reasoning_effort": "none",
        "enable_thinking": False,
    }


def test_counting_generates_nothing_and_is_told_no_length() -> None:
    parsed = read(SHAPES["call"][0], "message_count")
    assert parsed.item.max_tokens == 1
    assert "max_tokens" not in json.loads(parsed.engine_body("small", 1))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        *(
            ({"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}, None)
            for source in (
                None,
                {"type": "url", "url": "http://inside/secret.png"},
                {"type": "file", "file_id": "file_1"},
                PICTURE["source"] | {"type": "url", "url": "file:///etc/passwd"},
                PICTURE["source"] | {"media_type": "text/html"},
                PICTURE["source"] | {"media_type": "image/png;base64,QUJD,http://inside/"},
                PICTURE["source"] | {"media_type": None},
                PICTURE["source"] | {"data": "no"},
            )
        ),
        ({"messages": [USER, {"role": "assistant", "content": [PICTURE]}]}, "messages[1].content[0]"),
        ({"system": [PICTURE], "messages": [USER]}, "system[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [RESULT | {"content": [{"type": "image"}]}]}]},
            "messages[0].content[0].content[0]",
        ),
        ({"messages": [USER], "tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"messages": [USER], "stop_sequences": ["x" * 2000]}, "stop_sequences"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(body: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(body)
    assert (caught.value.status, caught.value.param) == (400, param or "messages[0].content[0]")


@pytest.mark.parametrize("kind", ["message", "message_count"])
def test_pictures_are_counted_and_reach_the_engine_alone(kind: str) -> None:
    given = PICTURE | {"cache_control": {"type": "ephemeral"}, "source": PICTURE["source"] | {"url": "http://x"}}
    parsed = read({"messages": [{"role": "user", "content": [given, *blocks("a"), PICTURE]}]}, kind)
    assert parsed.item.needs.images == 2
    (sent,) = json.loads(parsed.engine_body("small"))["messages"]
    assert sent["content"] == [PICTURE, {"type": "text", "text": "a"}, PICTURE]


def test_max_tokens_are_asked_for() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse("message", json.dumps({"messages": [USER]}).encode(), {}, Rules(MODELS))
    assert caught.value.param == "max_tokens"


def test_what_nothing_here_runs_is_left_out_and_named() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    parsed = read({"messages": [USER], "tools": [search, TOOL], "thinking": thinking, "container": "x"})
    assert parsed.ignored == ("container", "tools.web_search_20250305", "thinking.budget_tokens")
    sent = json.loads(parsed.engine_body("small"))
    assert (sent["tools"], sent["thinking"]) == ([TOOL], {"type": "adaptive"})


def test_other_names_stand_for_models() -> None:
    aliases = {"claude-haiku*": "small", "claude-*": "auto"}
    named = read({"messages": [USER], "model": "claude-haiku-4-5"}, aliases=aliases)
    assert named.item.model == "small"
    assert json.loads(named.engine_body("small"))["model"] == "small"
    assert read({"messages": [USER], "model": "claude-opus-4-5"}, aliases=aliases).item.model is None
    with pytest.raises(InvalidRequestError, match="does not exist"):
        read({"messages": [USER], "model": "gpt-5"}, aliases=aliases)


@pytest.mark.slow  # imports vLLM
@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_engine_reads_the_same(shape: str, merges: bool) -> None:
    """vLLM's own request and its own translation of what the engine is sent, whatever its template wants merged."""
    protocol = pytest.importorskip("vllm.entrypoints.anthropic.protocol")
    serving = pytest.importorskip("vllm.entrypoints.anthropic.serving").AnthropicServingMessages
    parsed = read(SHAPES[shape][0])
    ours = parsed.prompt.content
    for kind, model in (("message", "AnthropicMessagesRequest"), ("message_count", "AnthropicCountTokensRequest")):
        sent = json.loads(read(SHAPES[shape][0], kind).engine_body("small"))
        request = getattr(protocol, model).model_validate(sent)
        chat = serving.to_chat_completion_request(request, merge_inline_system=merges)
        theirs = json.loads(json.dumps(chat.model_dump(mode="json")["messages"]))
        assert [(one["role"], text(one.get("content"))) for one in theirs] == [
            (one["role"], text(one.get("content"))) for one in ours
        ]
        for field in ("tool_calls", "reasoning", "tool_call_id"):
            assert [one.get(field) for one in theirs] == [one.get(field) for one in ours]
        tools = [tool.model_dump()["function"] for tool in chat.tools or ()]
        assert [{name: tool.get(name) for name in ("name", "description", "parameters")} for tool in tools] == [
            {name: tool["function"].get(name) for name in ("name", "description", "parameters")}
            for tool in parsed.prompt.tools or ()
        ]
        told = chat.build_chat_params(None, "auto").chat_template_kwargs
        variables = {"add_generation_prompt": True, "continue_final_message": False}
        assert {name: value for name, value in told.items() if value is not None} == variables | dict(
            parsed.prompt.template_variables
        )


@pytest.mark.slow  # imports vLLM
def test_known_fields_are_those_that_vllm_and_anthropic_know() -> None:
    protocol = pytest.importorskip("vllm.entrypoints.anthropic.protocol")
    params = pytest.importorskip("anthropic.types.message_create_params").MessageCreateParamsBase
    known = set(protocol.AnthropicMessagesRequest.model_fields) | set(params.__annotations__)
    assert MESSAGE_FIELDS - {"routing", "stream"} <= known
    assert MESSAGE_COUNT_FIELDS - {"routing"} <= set(protocol.AnthropicCountTokensRequest.model_fields)
