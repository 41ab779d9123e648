"""The APIs beside chats and completions, with their official clients and their own types, on the real service."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from apportion.deployments.wire.headers import STREAM_COST_HEADER
from tests.deployments.service import MODELS, Service, holds_nothing, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

QUESTION = "What is 4 plus 5?"
SETTLED = ": x-router-settled-cost-usd "


def cost_usd(service: Service, model: str, input_tokens: int, output_tokens: int) -> float:
    """Counted tokens at a model's price."""
    models = service.document["applications"][0]["args"]["models"]
    price = next(one for one in models if one["name"] == model)
    input_usd, output_usd = price["input_usd_per_million"], price["output_usd_per_million"]
    return float(input_tokens * input_usd + output_tokens * output_usd) / 1e6


@pytest.fixture
def openai_client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_response_is_answered_and_settled(service: Service, openai_client: openai.OpenAI) -> None:
    raw = openai_client.responses.with_raw_response.create(model="auto", input=QUESTION, temperature=0)
    response = raw.parse()
    assert (response.status, response.object) == ("completed", "response")
    assert raw.headers["x-router-model"] == response.model
    assert response.model in MODELS
    assert response.usage is not None
    expected_usd = cost_usd(service, response.model, response.usage.input_tokens, response.usage.output_tokens)
    assert float(raw.headers["x-router-settled-cost-usd"]) == pytest.approx(expected_usd, rel=1e-6)
    finch = openai_client.responses.create(model="finch", input=QUESTION, instructions="Add.", temperature=0)
    assert (
        finch.output_text
        == openai_client.chat.completions.create(
            model="finch",
            messages=[{"role": "system", "content": "Add."}, {"role": "user", "content": QUESTION}],
            temperature=0,
        )
        .choices[0]
        .message.content
    )


def test_a_response_streams_the_events_of_its_clients(service: Service, openai_client: openai.OpenAI) -> None:
    with openai_client.responses.stream(model="finch", input=QUESTION, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(deltas) == final.output_text == "9"


def test_a_streamed_response_settles_its_cost_at_the_end(service: Service) -> None:
    body = {"model": "finch", "input": QUESTION, "stream": True, "routing": {"stream_cost": True}}
    *_, last, settled, end = service.post("/v1/responses", body).text.split("\n\n")
    assert last.startswith("event: response.completed\n")
    assert end == ""
    assert float(settled.removeprefix(SETTLED)) > 0
    spent_usd = service.health()["spent_usd"]
    wait_for(lambda: holds_nothing(service.health()), 20, "nothing is held")
    assert service.health()["spent_usd"] >= spent_usd


def test_a_conversation_goes_on_with_what_was_answered(openai_client: openai.OpenAI) -> None:
    first = openai_client.responses.create(model="finch", input=QUESTION, temperature=0)
    turns: list[Any] = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": QUESTION}]
    assert openai_client.responses.create(model="finch", input=turns, temperature=0).status == "completed"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, 400, None),
        ({"model": "nobody"}, 404, "model"),
        ({"input": "word " * 2000}, 400, None),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"routing": {"max_cost_usd": 1e-12}}, 402, "routing.max_cost_usd"),
    ],
)
def test_a_response_that_cannot_be_is_refused_in_openais_words(
    service: Service, fields: dict[str, Any], status: int, param: str | None
) -> None:
    answer = service.post("/v1/responses", {"model": "auto", "input": QUESTION} | fields)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param


ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
COLD = {"temperature": 0}  # for which Anthropic's client has no argument


@pytest.fixture
def anthropic_client(service: Service) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0, timeout=60)


def test_a_message_is_answered_and_settled(service: Service, anthropic_client: anthropic.Anthropic) -> None:
    raw = anthropic_client.messages.with_raw_response.create(model="auto", max_tokens=16, messages=ASKED)
    message = raw.parse()
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert raw.headers["x-router-model"] == message.model
    assert message.model in MODELS
    used = message.usage
    read = used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    expected_usd = cost_usd(service, message.model, read, used.output_tokens)
    assert float(raw.headers["x-router-settled-cost-usd"]) == pytest.approx(expected_usd, rel=1e-6)


def test_a_message_streams_the_events_of_its_clients(anthropic_client: anthropic.Anthropic) -> None:
    events = list(
        anthropic_client.messages.create(
            model="finch", max_tokens=16, messages=ASKED, system="Add.", extra_body=COLD, stream=True
        )
    )
    texts = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(texts),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    with anthropic_client.messages.stream(
        model="finch", max_tokens=16, messages=ASKED, system="Add.", extra_body=COLD
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].text == "".join(texts)
    assert final.usage.output_tokens > 0


def test_a_streamed_message_settles_its_cost_before_the_end(service: Service) -> None:
    body = {"model": "finch", "max_tokens": 16, "messages": ASKED, "stream": True}
    told = service.post("/v1/messages", body, headers={STREAM_COST_HEADER: "true"})
    *_, before, settled, last, end = told.text.split("\n\n")
    assert before.startswith("event: message_delta\n")
    assert (last, end) == ('event: message_stop\ndata: {"type":"message_stop"}', "")
    assert float(settled.removeprefix(SETTLED)) > 0
    wait_for(lambda: holds_nothing(service.health()), 20, "nothing is held")


def test_tokens_of_a_message_are_counted_as_its_answer_counts_them(anthropic_client: anthropic.Anthropic) -> None:
    raw = anthropic_client.messages.with_raw_response.count_tokens(model="finch", messages=ASKED, system="Add.")
    used = anthropic_client.messages.create(model="finch", max_tokens=4, messages=ASKED, system="Add.").usage
    assert raw.parse().input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
    assert float(raw.headers["x-router-settled-cost-usd"]) == 0


def test_a_message_that_cannot_be_is_refused_in_anthropics_words(anthropic_client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        anthropic_client.messages.create(model="nobody", max_tokens=4, messages=ASKED)
    assert unknown.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as wrong:
        anthropic_client.messages.create(model="finch", max_tokens=4, messages=ASKED, extra_body={"temperature": -3})
    assert set(wrong.value.body) == {"type", "error"}
    assert wrong.value.body["error"]["type"] == "invalid_request_error"
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(anthropic.BadRequestError, match="maximum context length"):
        anthropic_client.messages.create(model="auto", max_tokens=4, messages=long)


def test_tokens_are_those_that_an_answer_counts(service: Service) -> None:
    counted = service.post("/tokenize", {"model": "finch", "messages": ASKED})
    tokens = counted.json()["tokens"]
    assert (
        len(tokens) == counted.json()["count"] == service.chat(QUESTION, model="finch").json()["usage"]["prompt_tokens"]
    )
    assert counted.headers["x-router-model"] == "finch"
    assert float(counted.headers["x-router-settled-cost-usd"]) == 0
    text = service.post("/detokenize", {"model": "finch", "tokens": tokens}).json()["prompt"]
    assert QUESTION.replace(" ", "") in text.replace(" ", "")  # the tokenizer does not give all spaces back
    plain = service.post("/tokenize", {"model": "finch", "prompt": "word " * 2000})
    assert plain.json()["count"] > plain.json()["max_model_len"]


def test_embeddings_are_told_what_there_is_instead(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model here makes embeddings; wren, finch"):
        openai_client.embeddings.create(model="wren", input="x")
