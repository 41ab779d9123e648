from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.ingress.bounds import MAX_DEPTH, InputBounds
from apportion.deployments.ingress.known_fields import CHAT_FIELDS, COMPLETION_FIELDS
from apportion.deployments.ingress.openai import UNREAD_FIELDS, parse
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
    return parse(kind, json.dumps(body).encode(), {}, MODELS, bounds=BOUNDS)


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
        parse("completion", raw, {}, MODELS)


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
        parse("chat", raw, {}, MODELS, refuse_unknown=True)
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


@pytest.mark.slow  # imports vLLM
def test_known_fields_are_those_that_vllm_and_openai_know() -> None:
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    completions = pytest.importorskip("vllm.entrypoints.openai.completion.protocol")
    chat_params = pytest.importorskip("openai.types.chat.completion_create_params")
    params = pytest.importorskip("openai.types.completion_create_params")
    for ours, engine, client in (
        (CHAT_FIELDS, protocol.ChatCompletionRequest, chat_params.CompletionCreateParamsBase),
        (COMPLETION_FIELDS, completions.CompletionRequest, params.CompletionCreateParamsBase),
    ):
        assert ours - {"routing"} <= set(engine.model_fields) | set(client.__annotations__)
    assert set(UNREAD_FIELDS) <= CHAT_FIELDS


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
        parse("chat", raw, {}, MODELS)


def test_whole_surrogate_pairs_are_text() -> None:
    raw = b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    assert parse("chat", raw, {}, MODELS).item.content == [{"role": "user", "content": "\U0001f600"}]


@pytest.mark.parametrize("field", sorted(UNREAD_FIELDS))
def test_what_may_lengthen_a_prompt_is_told_to_the_router(field: str) -> None:
    assert read("chat", CHAT | {field: "x"}).item.unread_prompt
    assert not read("chat", CHAT).item.unread_prompt
