from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.ingress.bounds import MAX_DEPTH, InputBounds
from apportion.deployments.ingress.known_fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    EMBEDDING_FIELDS,
    FIELDS,
    UNREAD_BY_ENGINES,
)
from apportion.deployments.ingress.openai import UNREAD_FIELDS, parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.wire.headers import ignored_header
from apportion.router.errors import InvalidRequestError

MODELS = ("small",)
CHAT = {"messages": [{"role": "user", "content": "x"}]}
BOUNDS = InputBounds(
    max_messages=2,
    max_prompts=3,
    max_sequences=4,
    max_stop=2,
    max_stop_chars=5,
    max_tools=1,
    max_logit_bias=1,
    max_models=2,
)


def read(kind: str, body: dict[str, Any]) -> Any:
    return parse(kind, json.dumps(body).encode(), {}, Rules(MODELS, bounds=BOUNDS))


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        ("chat", {"messages": CHAT["messages"] * 3}, "messages"),
        ("chat", CHAT | {"n": 5}, "n"),
        ("chat", CHAT | {"n": 10**30}, "n"),
        ("chat", CHAT | {"max_tokens": 2**31}, "max_tokens"),
        ("chat", CHAT | {"max_tokens": 10**400}, "max_tokens"),
        ("chat", CHAT | {"max_completion_tokens": 10**400}, "max_completion_tokens"),
        ("completion", {"prompt": "a", "max_tokens": 10**400}, "max_tokens"),
        ("chat", CHAT | {"stop": ["a"] * 3}, "stop"),
        ("chat", CHAT | {"stop": "abcdef"}, "stop"),
        ("chat", CHAT | {"stop": ["abcdef"]}, "stop"),
        ("chat", CHAT | {"tools": [{}, {}]}, "tools"),
        ("chat", CHAT | {"logit_bias": {"1": 1, "2": 1}}, "logit_bias"),
        ("chat", CHAT | {"routing": {"models": ["small"] * 3}}, "routing.models"),
        ("completion", {"prompt": ["a"] * 4}, "prompt"),
        ("completion", {"prompt": ["a", "b", "c"], "n": 2}, "n"),
    ],
)
def test_what_is_too_large_is_refused_by_name(kind: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(kind, body)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt": "\xed\xa0\x80"}',  # half of a surrogate pair, as three bytes
        b'{"prompt": "\xff"}',
        '{"prompt": "\\ud800"}'.encode("utf-16"),
        '{"prompt": "x"}'.encode("utf-16-le"),
        '{"prompt": "x"}'.encode("utf-32"),
        b'{"prompt": "\\ud800"}',
    ],
)
def test_what_is_no_unicode_text_in_utf_8_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse("completion", raw, {}, Rules(MODELS))


def test_what_fits_passes() -> None:
    body = CHAT | {"n": 4, "stop": ["abcde", "b"], "tools": [{}], "logit_bias": {"1": 1}}
    assert read("chat", body).item.sequences == 4


def test_unknown_fields_are_left_out_and_named() -> None:
    parsed = read(
        "chat", CHAT | {"thinking": {"type": "disabled"}, "provider": {}, "request_id": "r", "temperature": 1}
    )
    assert parsed.ignored == ("provider", "request_id", "thinking")
    assert json.loads(parsed.engine_body("small")) == CHAT | {"model": "small", "temperature": 1}
    assert read("completion", {"prompt": "x", "messages": []}).ignored == ("messages",)
    assert read("chat", CHAT | {"metadata": {"a": "b"}, "top_k": 3}).ignored == ()


def test_unknown_fields_are_refused_as_openai_does_where_the_service_says_so() -> None:
    raw = json.dumps(CHAT | {"temprature": 0}).encode()
    with pytest.raises(InvalidRequestError, match=r"^Unrecognized request argument supplied: temprature$") as caught:
        parse("chat", raw, {}, Rules(MODELS, refuse_unknown=True))
    assert caught.value.param == "temprature"


def test_null_is_as_good_as_absent() -> None:
    plain = read("chat", CHAT | {"model": "small"})
    nulls = dict.fromkeys(("max_tokens", "n", "stream", "routing", "tools", "temperature", "thinking"))
    message = CHAT["messages"][0] | {"name": None, "tool_calls": None}
    same = read("chat", nulls | {"model": "small", "messages": [message]})
    assert json.loads(same.engine_body("small")) == json.loads(plain.engine_body("small"))
    assert same.ignored == ()
    assert read("chat", CHAT | {"model": None}).item.model is None
    routing = {"options": None, "priority": None, "wait_for_budget": None, "min_success": 0.5}
    assert read("chat", CHAT | {"routing": routing}).item.ask.min_success == 0.5


@pytest.mark.parametrize(
    ("kind", "full", "plain"),
    [
        (
            "chat",
            {"content": [{"type": "text", "text": "x", "image_url": None, "cache_control": None}], "audio": None},
            {"content": [{"type": "text", "text": "x"}]},
        ),
        (
            "chat",
            {"content": None, "tool_calls": [{"id": "a", "type": None, "index": None, "function": {"name": "f"}}]},
            {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        ),
        ("chat", {"content": "x", "tool_calls": [], "function_call": None, "refusal": None}, {"content": "x"}),
        (
            "tokenize",
            {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": "é"}}}]},
            {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": "é"}'}}]},
        ),
    ],
)
def test_null_within_messages_is_as_good_as_absent(kind: str, full: dict[str, Any], plain: dict[str, Any]) -> None:
    turns = [read(kind, {"messages": [{"role": "assistant", **one}], "model": "small"}) for one in (full, plain)]
    bodies = [json.loads(turn.engine_body("small")) for turn in turns]
    assert bodies[0] == bodies[1]
    assert turns[0].prompt.content == turns[1].prompt.content


def test_null_within_fields_is_as_good_as_absent_but_in_what_is_the_users_own() -> None:
    schema = {"type": "object", "properties": {"unit": {"enum": ["m", None], "default": None}}, "examples": [None]}
    function = {"name": "f", "parameters": schema}
    full = {
        "tools": [{"type": "function", "function": function | {"strict": None, "description": None}, "id": None}],
        "tool_choice": {"type": "function", "function": {"name": "f", "x": None}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": None}},
        "stream_options": {"include_usage": None},
        "structured_outputs": {"json": schema, "regex": None},
        "metadata": {"a": None},
        "chat_template_kwargs": {"a": None},
    }
    given = json.loads(read("chat", CHAT | full).engine_body("small"))
    assert given["tools"] == [{"type": "function", "function": function}]
    assert given["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert given["response_format"] == {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert given["stream_options"] == {}
    assert given["structured_outputs"] == {"json": schema}
    assert given["metadata"] == given["chat_template_kwargs"] == {"a": None}
    used = {"type": "tool_use", "id": "t", "name": "f", "input": {"unit": None}, "cache_control": None}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [used]}]
    message = json.loads(read("message", {"messages": turns, "max_tokens": 3}).engine_body("small"))
    assert message["messages"][1]["content"][0]["input"] == {"unit": None}


UNKNOWN: dict[str, Any] = {
    "enable_thinking": False,
    "reasoning": {"effort": "low"},
    "provider": {"sort": "price", "order": ["a"]},
    "usage": {"include": True},
    "models": ["small"],
    "transforms": [],
    "num_ctx": 4096,
    "options": {"temperature": 0},
    "keep_alive": "5m",
    "safe_prompt": True,
    "random_seed": 7,
    "extra_body": {"top_k": 1},
    "extra_headers": {},
    "litellm_metadata": {"user": "a"},
    "guided_json": {"type": "object"},
    "cachePoint": {"type": "default"},
    "x-" + "y" * 90: 1,
    "": 0,
    "\u00e4\r\n: 1": "odd",
    "__proto__": {"admin": True},
    "stream_timeout": 3.5,
}
BODIES_OF: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "completion": {"prompt": "x"},
    "response": {"input": "x"},
    "message": CHAT | {"max_tokens": 3},
    "message_count": CHAT,
    "tokenize": {"model": "small", "prompt": "x"},
    "detokenize": {"model": "small", "tokens": [1]},
}


@pytest.mark.parametrize("kind", BODIES_OF)
@pytest.mark.parametrize("name", UNKNOWN)
def test_a_field_of_another_service_is_named_and_no_engine_gets_it(kind: str, name: str) -> None:
    plain, parsed = read(kind, BODIES_OF[kind]), read(kind, BODIES_OF[kind] | {name: UNKNOWN[name]})
    if name in FIELDS[kind]:  # `reasoning` of Responses
        return
    assert parsed.ignored == (name,)
    assert parsed.engine_body("small") == plain.engine_body("small")
    ((_, told),) = ignored_header(parsed.ignored)
    assert told.isascii()
    assert not {b"\r"[0], b"\n"[0], b","[0]} & set(told)
    with pytest.raises(InvalidRequestError, match="Unrecognized request argument supplied"):
        parse(
            kind, json.dumps(BODIES_OF[kind] | {name: UNKNOWN[name]}).encode(), {}, Rules(MODELS, refuse_unknown=True)
        )


LAYERS = {
    "chat": ("openai.chat_completion", "ChatCompletionRequest"),
    "completion": ("openai.completion", "CompletionRequest"),
    "response": ("openai.responses", "ResponsesRequest"),
    "message": ("anthropic", "AnthropicMessagesRequest"),
    "message_count": ("anthropic", "AnthropicCountTokensRequest"),
    "embedding": ("pooling.embed", "EmbeddingCompletionRequest"),
    "tokenize": ("serve.tokenize", "TokenizeChatRequest", "TokenizeCompletionRequest"),
    "detokenize": ("serve.tokenize", "DetokenizeRequest"),
}


@pytest.mark.slow  # imports vLLM
@pytest.mark.parametrize("kind", FIELDS)
def test_what_engines_do_not_read_is_what_their_layers_do_not_define(kind: str) -> None:
    package, *names = LAYERS[kind]
    layer = pytest.importorskip(f"vllm.entrypoints.{package}.protocol")
    defined = {field for name in names for field in getattr(layer, name).model_fields}
    assert FIELDS[kind] - defined - {"routing"} == UNREAD_BY_ENGINES.get(kind, frozenset())


@pytest.mark.slow  # imports vLLM
def test_known_fields_are_those_that_vllm_and_openai_know() -> None:
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    completions = pytest.importorskip("vllm.entrypoints.openai.completion.protocol")
    chat_params = pytest.importorskip("openai.types.chat.completion_create_params")
    params = pytest.importorskip("openai.types.completion_create_params")
    embed = pytest.importorskip("vllm.entrypoints.pooling.embed.protocol")
    embed_params = pytest.importorskip("openai.types.embedding_create_params")
    for ours, engine, client in (
        (CHAT_FIELDS, protocol.ChatCompletionRequest, chat_params.CompletionCreateParamsBase),
        (COMPLETION_FIELDS, completions.CompletionRequest, params.CompletionCreateParamsBase),
        (EMBEDDING_FIELDS, embed.EmbeddingCompletionRequest, embed_params.EmbeddingCreateParams),
    ):
        assert ours - {"routing"} <= set(engine.model_fields) | set(client.__annotations__)
    assert set(UNREAD_FIELDS) <= CHAT_FIELDS | EMBEDDING_FIELDS


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": -Infinity}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": ' + b"[" * (MAX_DEPTH + 5) + b"]" * (MAX_DEPTH + 5) + b"}",
        b'{"seed": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b"",
        b"null",
    ],
)
def test_what_is_no_plain_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse("chat", raw, {}, Rules(MODELS))


@pytest.mark.parametrize("body", [CHAT, CHAT | {"temperature": None}])
def test_a_byte_order_mark_before_a_body_is_no_error(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    assert parse("chat", b"\xef\xbb\xbf" + raw, {}, Rules(MODELS)).engine_body("small") == read(
        "chat", CHAT
    ).engine_body("small")


def test_whole_surrogate_pairs_are_text() -> None:
    raw = b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    assert parse("chat", raw, {}, Rules(MODELS)).prompt.content == [{"role": "user", "content": "\U0001f600"}]


@pytest.mark.parametrize("field", sorted(UNREAD_FIELDS & CHAT_FIELDS))
def test_what_may_lengthen_a_prompt_is_told_to_the_router(field: str) -> None:
    assert read("chat", CHAT | {field: "x"}).item.unread_prompt
    assert not read("chat", CHAT).item.unread_prompt
