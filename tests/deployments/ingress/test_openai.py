import json

import pytest

from apportion.deployments.config.keys import Permissions
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.keys.caller import Caller
from apportion.router.batch.capabilities import Capabilities
from apportion.router.errors import ApportionError, InvalidRequestError, UnknownModelError

MODELS = ("small", "large")
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


def read(kind: str, body: object, headers: dict[str, str] | None = None):
    return parse(kind, json.dumps(body).encode(), headers or {}, Rules(MODELS))


def test_auto_is_routed_and_a_name_is_kept() -> None:
    assert read("chat", CHAT).item.model is None
    assert read("chat", CHAT | {"model": "large"}).item.model == "large"


def test_a_request_without_a_model_is_routed() -> None:
    assert read("chat", {"messages": CHAT["messages"]}).item.model is None


def test_the_engine_gets_everything_but_routing() -> None:
    body = CHAT | {"temperature": 0.5, "tools": [{"type": "function"}], "routing": {"min_success": 0.5}}
    parsed = read("chat", body)
    assert json.loads(parsed.engine_body("small")) == {
        "model": "small",
        "messages": CHAT["messages"],
        "temperature": 0.5,
        "tools": [{"type": "function"}],
    }
    assert parsed.item.ask.min_success == 0.5


def test_parts_that_are_bare_strings_reach_the_engine_as_the_texts_they_are() -> None:
    parts = ["Look", {"type": "text", "text": "here"}]
    sent = json.loads(read("chat", {"messages": [{"role": "user", "content": parts}]}).engine_body("small"))
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "Look"}, parts[1]]


@pytest.mark.parametrize(
    ("kind", "asked", "sent"),
    [
        ("chat", {"max_tokens": 32000}, {"max_tokens": 90}),
        ("chat", {"max_completion_tokens": 32000}, {"max_completion_tokens": 90}),
        ("chat", {"max_completion_tokens": 32000, "max_tokens": 7}, {"max_completion_tokens": 90, "max_tokens": 7}),
        ("completion", {}, {"max_tokens": 90}),
    ],
)
def test_the_engine_is_asked_for_what_fits(kind: str, asked: dict[str, int], sent: dict[str, int]) -> None:
    body = (CHAT if kind == "chat" else {"prompt": "a"}) | asked
    got = json.loads(read(kind, body).engine_body("small", 90))
    assert {name: got[name] for name in got if name.startswith("max_")} == sent
    assert json.loads(read(kind, body).engine_body("small")) == body | {"model": "small"}


def test_sequences_are_prompts_times_n() -> None:
    assert read("chat", CHAT | {"n": 3}).item.sequences == 3
    assert read("completion", {"prompt": ["a", "b"], "n": 2}).item.sequences == 4


def test_the_longest_answer_is_what_the_endpoint_defines() -> None:
    assert read("chat", CHAT).item.max_tokens is None
    assert read("chat", CHAT | {"max_completion_tokens": 7}).item.max_tokens == 7
    assert read("completion", {"prompt": "a"}).item.max_tokens == 16


def test_an_answer_that_cannot_end_before_is_known_to_be_long() -> None:
    for kind, body, least in (
        ("chat", CHAT | {"max_tokens": 50, "ignore_eos": True}, 50),
        ("completion", {"prompt": "a", "ignore_eos": True}, 16),
        ("chat", CHAT | {"min_tokens": 20}, 20),
        ("message", CHAT | {"max_tokens": 50, "ignore_eos": True}, 0),  # whose engine is not told of it
    ):
        parsed = read(kind, body)
        assert (parsed.item.min_tokens, parsed.prompt.min_tokens) == (least, least)


def test_scores_of_a_prompt_may_be_asked_for_without_an_answer() -> None:
    parsed = read("completion", {"prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 1})
    assert parsed.item.max_tokens == 1
    assert json.loads(parsed.engine_body("small", 90))["max_tokens"] == 0
    with pytest.raises(InvalidRequestError, match="max_tokens 0 asks for nothing") as refused:
        read("completion", {"prompt": "a", "max_tokens": 0})
    assert refused.value.param == "echo"


def test_a_session_has_a_name_of_the_callers_which_nobody_else_reads() -> None:
    by_field = read("chat", CHAT | {"routing": {"session": "s"}, "prompt_cache_key": "t"}, {"x-session-id": "t"})
    assert by_field.item.session not in {None, "s"}
    for body, headers in (
        ({}, {"x-session-id": "s"}),
        ({}, {"x-router-session": "s"}),
        ({"prompt_cache_key": "s", "user": "u"}, {}),
    ):
        assert read("chat", CHAT | body, headers).item.session == by_field.item.session
    assert read("chat", CHAT | {"user": "s", "prompt_cache_key": 7}).item.session is None
    raw = json.dumps(CHAT | {"user": "s"}).encode()
    assert parse("chat", raw, {}, Rules(MODELS, session_by_user=True)).item.session == by_field.item.session
    assert read("completion", {"prompt": "a"}, {"x-session-id": "t"}).item.session not in {None, by_field.item.session}
    assert json.loads(by_field.engine_body("small"))["prompt_cache_key"] == "t", "vLLM's own layer reads it"


def test_headers_ask_what_the_field_does_not() -> None:
    headers = {
        "x-router-min-success": "0.7",
        "x-router-max-seconds": "2.5",
        "x-router-models": "small, large",
        "x-router-strategy": "greedy",
    }
    ask = read("chat", CHAT | {"routing": {"min_success": 0.9}}, headers).item.ask
    assert (ask.min_success, ask.models, ask.strategy) == (0.9, ("small", "large"), "greedy")
    assert ask.max_seconds == 2.5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (CHAT | {"max_tokens": -1}, "max_tokens"),
        (CHAT | {"max_tokens": "many"}, "max_tokens"),
        (CHAT | {"n": 0}, "n"),
        (CHAT | {"model": 7}, "model"),
        (CHAT | {"routing": {"max_price": 1}}, "routing.max_price"),
        (CHAT | {"routing": {"min_success": 2}}, "routing.min_success"),
        (CHAT | {"routing": {"max_seconds": 0}}, "routing.max_seconds"),
        (CHAT | {"routing": {"strategy": "magic"}}, "routing.strategy"),
        (CHAT | {"routing": {"strategy": "mip", "options": {"gop": 1}}}, "routing.options"),
        (CHAT | {"routing": {"strategy": "mip", "options": {"gap": "wide"}}}, "routing.options"),
        (CHAT | {"routing": {"strategy": "mip", "options": {"rows": ["x"]}}}, "routing.options"),
        (CHAT | {"routing": {"strategy": "mip", "options": {"rows": []}}}, "routing.options"),
        (CHAT | {"routing": {"strategy": "mip", "options": {"name": "x"}}}, "routing.options"),
        (CHAT | {"routing": {"strategy": "static", "options": {"model": 2}}}, "routing.options"),
        (CHAT | {"routing": {"strategy": "static", "options": {"model": -1}}}, "routing.options"),
        (CHAT | {"routing": {"options": {"gap": 0.1}}}, "routing.options"),
    ],
)
def test_a_wrong_field_is_named(body: dict, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read("chat", body)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [CHAT | {"model": "huge"}, CHAT | {"routing": {"models": ["huge"]}}])
def test_an_unknown_model_is_404_and_the_known_ones_are_listed(body: dict) -> None:
    with pytest.raises(UnknownModelError, match="small, large") as caught:
        read("chat", body)
    assert caught.value.status == 404


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse("chat", raw, {}, Rules(MODELS))


def test_token_ids_need_a_named_model() -> None:
    with pytest.raises(InvalidRequestError, match="name that model"):
        read("completion", {"prompt": [1, 2, 3]})
    assert read("completion", {"prompt": [1, 2, 3], "model": "small"}).item.sequences == 1


def test_errors_have_openais_envelope() -> None:
    with pytest.raises(ApportionError) as caught:
        read("chat", CHAT | {"n": 0})
    error = caught.value.envelope()["error"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        ("tokenize", {"prompt": "x"}, "model"),
        ("tokenize", {"model": "auto", "prompt": "x"}, "model"),
        ("tokenize", {"model": "small"}, "prompt"),
        ("tokenize", CHAT | {"model": "small", "prompt": "x"}, "prompt"),
        ("tokenize", {"model": "small", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ("detokenize", {"tokens": [1]}, "model"),
        ("detokenize", {"model": "small"}, "tokens"),
        ("detokenize", {"model": "small", "tokens": ["x"]}, "tokens.0"),
    ],
)
def test_tokens_are_one_models(kind: str, body: dict, param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(kind, body)
    assert caught.value.param == (param or "messages[0].content[0]")


def test_tokens_of_messages_need_a_model_that_reads_chats() -> None:
    assert read("tokenize", CHAT | {"model": "small"}).item.needs == Capabilities(chat=1, tokenize=1)
    for kind, body in (("tokenize", {"prompt": "x"}), ("detokenize", {"tokens": [1]})):
        assert read(kind, body | {"model": "small"}).item.needs == Capabilities(tokenize=1)


def test_a_prompt_whose_tokens_are_asked_for_may_be_longer_than_any_context() -> None:
    parsed = read("tokenize", {"model": "small", "prompt": "word " * 10_000, "add_special_tokens": False})
    assert (parsed.item.model, parsed.item.max_tokens, len(parsed.prompt.content)) == ("small", 1, 1)
    assert not parsed.item.unread_prompt
    assert len(json.loads(parsed.engine_body("small", 1))["prompt"]) == 50_000


@pytest.mark.parametrize(
    ("field", "headers", "told"),
    [
        (None, {}, False),
        ({"stream_cost": True}, {}, True),
        ({}, {"x-router-stream-cost": "true"}, True),
        ({"stream_cost": False}, {"x-router-stream-cost": "true"}, False),
    ],
)
def test_what_a_stream_costs_is_told_where_it_is_asked_for(field: object, headers: dict, told: bool) -> None:
    assert read("chat", CHAT | {"stream": True, "routing": field}, headers).cost_told is told


TWO = ("bert", "minilm")


def embed(body: dict, embedders: tuple[str, ...] = TWO[:1], **permissions: object):
    caller = Caller(permissions=Permissions.model_validate(permissions))
    return parse("embedding", json.dumps(body).encode(), {}, Rules((*MODELS, *TWO), embedders), caller)


@pytest.mark.parametrize(
    ("given", "texts"), [("abc", 1), (["a", "b"], 2), ([5, 6, 7], 1), ([[5], [6, 7], [8]], 3), (["a"] * 2048, 2048)]
)
def test_embeddings_are_made_by_the_one_model_that_makes_them(given: object, texts: int) -> None:
    for model in ("auto", "bert"):
        parsed = embed({"model": model, "input": given, "encoding_format": "base64", "dimensions": 4, "user": "u"})
        item = parsed.item
        assert (item.model, item.prompts, item.sequences, parsed.prompt.content) == ("bert", texts, texts, given)
        assert item.needs == Capabilities(embeddings=1)
        sent = json.loads(parsed.engine_body("bert", 1))
        assert sent == {"model": "bert", "input": given, "encoding_format": "base64", "dimensions": 4, "user": "u"}


def test_embeddings_and_tokens_are_no_turn_of_a_conversation() -> None:
    session = {"x-session-id": "s"}
    assert read("chat", CHAT, session).item.session
    assert not read("tokenize", {"model": "small", "prompt": "hi"}, session).item.session
    assert not embed({"input": "a", "routing": {"session": "s"}}).item.session


@pytest.mark.parametrize("field", ["padding", "add_special_tokens"])
def test_embeddings_whose_length_the_engine_decides_are_not_counted(field: str) -> None:
    assert embed({"input": "a", field: "max_length" if field == "padding" else False}).item.unread_prompt
    assert not embed({"input": "a"}).item.unread_prompt


@pytest.mark.parametrize(
    ("body", "embedders", "permissions", "code", "said"),
    [
        ({}, (), {}, "model_not_found", "no model here makes embeddings; small, large, bert, minilm answer at"),
        ({}, (), {"models": ["large"]}, "model_not_found", "no model here makes embeddings; large answer at"),
        ({}, TWO, {}, "invalid_request", "do not compare; you may use bert, minilm"),
        ({}, TWO, {"models": ["small"]}, "invalid_request", "you may use none"),
        ({"model": "bert"}, TWO, {"models": ["small"]}, "model_not_allowed", "may not use bert"),
        ({"routing": {"models": ["large"]}}, TWO[:1], {}, "invalid_request", "you may use bert"),
        ({"input": []}, TWO[:1], {}, "invalid_request", "input"),
        ({"input": ["a"] * 2049}, TWO[:1], {}, "invalid_request", "2049 texts in one request; at most 2048"),
    ],
)
def test_embeddings_that_cannot_be_are_refused(
    body: dict, embedders: tuple[str, ...], permissions: dict, code: str, said: str
) -> None:
    with pytest.raises(ApportionError, match=said) as refused:
        embed({"input": "a"} | body, embedders, **permissions)
    assert refused.value.code == code


def test_of_several_models_that_make_embeddings_one_is_named_or_the_only_one_that_may() -> None:
    assert embed({"model": "minilm", "input": "a"}, TWO).item.model == "minilm"
    assert embed({"input": "a", "routing": {"models": ["minilm", "small"]}}, TWO).item.model == "minilm"
    assert embed({"input": "a"}, TWO, models=["small", "bert"]).item.model == "bert"


@pytest.mark.parametrize(
    ("kind", "body", "need"),
    [
        ("response", {"input": "hi"}, {"chat": 1, "responses": 1}),
        ("message", {"messages": CHAT["messages"], "max_tokens": 4}, {"chat": 1, "messages": 1}),
        ("message_count", {"messages": CHAT["messages"]}, {"chat": 1, "messages": 1}),
        ("tokenize", {"model": "small", "prompt": "hi"}, {"tokenize": 1}),
        ("detokenize", {"model": "small", "tokens": [1]}, {"tokenize": 1}),
    ],
)
def test_endpoints_that_simulated_engines_lack_are_needed(kind: str, body: dict, need: dict) -> None:
    assert read(kind, body).item.needs == Capabilities(**need)
