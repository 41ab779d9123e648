"""The whole service, end to end: Ray Serve, four vLLM engines, predictor, solver, OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.deployments.bare_http import head
from tests.deployments.processes import kill, replicas
from tests.deployments.service import MODELS, Service, holds_nothing, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]


def wait_until_idle(service: Service) -> None:
    """The router hears of an answer's end after the client."""
    wait_for(lambda: holds_nothing(service.health()), 20, "nothing is held")


@pytest.fixture
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_auto_is_answered_by_a_model_that_says_why(service: Service) -> None:
    answer = service.chat()
    assert answer.status_code == 200
    headers = answer.headers
    assert headers["x-router-model"] in MODELS
    assert answer.json()["model"] == headers["x-router-model"]
    assert 0 <= float(headers["x-router-success"]) <= 1
    assert float(headers["x-router-cost-usd"]) > 0
    assert float(headers["x-router-shadow-price"]) >= 0
    assert headers["x-router-rung"] == "mip"
    assert "cap-usd" in headers["x-router-batch"]
    assert re.fullmatch(
        r"link;dur=[\d.]+, queue;dur=[\d.]+, predict;dur=[\d.]+, solve;dur=[\d.]+, engine;dur=[\d.]+",
        headers["server-timing"],
    )


def test_the_settled_cost_is_the_counted_tokens_at_the_models_price(service: Service) -> None:
    for model in service.document["applications"][0]["args"]["models"]:
        answer = service.chat(model=model["name"])
        usage = answer.json()["usage"]
        tokens_usd = (
            usage["prompt_tokens"] * model["input_usd_per_million"]
            + usage["completion_tokens"] * model["output_usd_per_million"]
        ) / 1e6
        assert float(answer.headers["x-router-settled-cost-usd"]) == pytest.approx(tokens_usd, rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_reached_by_its_name(client: openai.OpenAI, model: str) -> None:
    completion = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "What is 2 plus 3?"}], max_tokens=8
    )
    assert completion.model == model


def test_the_zoo_can_add(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="finch", messages=[{"role": "user", "content": "What is 4 plus 5?"}], temperature=0
    )
    assert completion.choices[0].message.content == "9"


def test_streams_end_with_usage_only_when_asked(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "What is 2 plus 3?"}]}
    plain = list(client.chat.completions.create(**request, stream=True, temperature=0))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    counted = list(
        client.chat.completions.create(**request, stream=True, temperature=0, stream_options={"include_usage": True})
    )
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens > 0
    assert text == "".join(chunk.choices[0].delta.content or "" for chunk in counted if chunk.choices)


def test_a_stream_holds_only_what_was_asked_for(service: Service) -> None:
    lines = [line for line in service.chat(stream=True).text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


def test_a_stream_settles_its_cost_before_the_end_where_it_is_asked_to(service: Service) -> None:
    lines = service.chat(stream=True, routing={"stream_cost": True}).text.splitlines()
    assert lines[-2] == "data: [DONE]"
    settled = [line for line in lines if line.startswith(": x-router-settled-cost-usd ")]
    assert len(settled) == 1
    assert float(settled[0].split()[-1]) > 0


def test_sampling_parameters_reach_the_engine(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="wren",
        messages=[{"role": "user", "content": "What is 2 plus 3?"}],
        n=2,
        seed=7,
        temperature=1.0,
        logprobs=True,
        top_logprobs=2,
        max_tokens=3,
    )
    assert len(completion.choices) == 2
    assert completion.choices[0].logprobs is not None
    assert len(completion.choices[0].logprobs.content[0].top_logprobs) == 2
    assert completion.usage.completion_tokens <= 6


def test_completions_and_stop(client: openai.OpenAI) -> None:
    several = client.completions.create(model="wren", prompt=["one", "two"], max_tokens=4)
    assert [choice.index for choice in several.choices] == [0, 1]
    free = client.completions.create(model="auto", prompt="abc", max_tokens=8, temperature=0)
    stop = free.choices[0].text[:1]
    if stop:
        stopped = client.completions.create(model=free.model, prompt="abc", max_tokens=8, temperature=0, stop=[stop])
        assert stopped.choices[0].text == ""
    scored = client.completions.create(model="wren", prompt="abc", max_tokens=0, echo=True, logprobs=1)
    told = scored.choices[0].logprobs
    assert (scored.choices[0].text, told is not None and told.token_logprobs and told.token_logprobs[0]) == (
        "abc",
        None,
    )


def test_a_conversation_is_known_again(client: openai.OpenAI) -> None:
    turns = [
        client.chat.completions.with_raw_response.create(
            model="wren",
            messages=[{"role": "user", "content": "What is 1 plus 1?"}],
            max_tokens=1,
            extra_headers={"x-session-id": "a conversation"},
        ).headers.get("x-router-turn")
        for _ in range(2)
    ]
    assert turns == ["first", "stays"]


def test_what_an_engine_has_read_before_is_told(client: openai.OpenAI) -> None:
    prompt = [3] * 150  # an engine on a CPU keeps whole blocks of 128 tokens
    for cached in (0, 128):
        usage = client.completions.create(model="wren", prompt=prompt, max_tokens=1).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == cached


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"auto", *MODELS}
    assert client.models.retrieve("wren").id == "wren"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_request_can_limit_its_routing(service: Service) -> None:
    answer = service.chat(routing={"models": ["wren", "lark"]})
    assert answer.headers["x-router-model"] in {"wren", "lark"}
    cheapest = service.chat(routing={"strategy": "per_query", "options": {"price": 1e9}})
    assert (cheapest.headers["x-router-model"], cheapest.headers["x-router-strategy"]) == ("wren", "per_query")


def test_route_plans_and_runs_nothing(service: Service) -> None:
    wait_until_idle(service)
    spent_usd = service.health()["spent_usd"]
    body = {"requests": [{"messages": [{"role": "user", "content": f"What is {i} plus 3?"}]} for i in range(20)]}
    answer = service.post("/v1/route", body).json()
    assert len(answer["data"]) == 20
    first = answer["data"][0]
    assert {candidate["model"] for candidate in first["candidates"]} == set(MODELS)
    assert first["batch"]["size"] == 20
    assert first["batch"]["planned_cost_usd"] <= first["batch"]["cap_usd"]
    assert first["batch"]["objective"] <= first["batch"]["bound"] + 1e-9
    assert service.health()["spent_usd"] == spent_usd


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[1, 2]", 400, None),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content"),
        ({"model": "nobody"}, 404, "model"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 10**400}, 400, "max_tokens"),
        ({"n": "many"}, 400, "n"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": -3}, 400, "temperature"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, None),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "messages[0].content[0]",
        ),
        ({"routing": {"max_cost_usd": 1e-12}}, 402, "routing.max_cost_usd"),
        ({"routing": {"min_success": 1.0}}, 422, "routing.min_success"),
        ({"routing": {"models": ["nobody"]}}, 404, "routing.models"),
        ({"routing": {"colour": "red"}}, 400, "routing.colour"),
    ],
)
def test_bad_input_gets_a_clear_error_and_the_service_lives_on(
    service: Service, body: Any, status: int, param: str | None
) -> None:
    if isinstance(body, bytes):
        answer = httpx.post(f"{service.url}/v1/chat/completions", content=body, timeout=60)
    else:
        answer = service.post(
            "/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "x"}]} | body
        )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 15
    assert service.chat().status_code == 200
    wait_until_idle(service)


def test_unknown_paths_and_methods_are_named(service: Service) -> None:
    missing = httpx.get(f"{service.url}/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")
    assert httpx.get(f"{service.url}/v1/chat/completions").status_code == 405


def test_bad_items_do_not_spoil_a_batch(service: Service) -> None:
    async def ask(client: httpx.AsyncClient, i: int) -> int:
        body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": f"What is {i} plus 1?"}]}
        if i % 4 == 1:
            body["routing"] = {"max_cost_usd": 1e-12}
        if i % 4 == 3:
            body["messages"] = [{"role": "robot", "content": "x"}]
        return (await client.post(f"{service.url}/v1/chat/completions", json=body)).status_code

    async def ask_all() -> list[int]:
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(80)))

    statuses = asyncio.run(ask_all())
    assert statuses == [200, 402, 200, 400] * 20
    wait_until_idle(service)


def test_a_batch_keeps_its_cap(service: Service) -> None:
    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            body = {"model": "auto", "messages": [{"role": "user", "content": "What is 348 plus 87?"}]}
            url = f"{service.url}/v1/chat/completions"
            return await asyncio.gather(*(client.post(url, json=body) for _ in range(48)))

    answers = asyncio.run(ask_all())
    batches = {answer.headers["x-router-batch"] for answer in answers}
    assert len(batches) < len(answers)
    for batch in batches:
        values = dict(part.split("=") for part in batch.split("; "))
        assert float(values["planned-usd"]) <= float(values["cap-usd"]) * (1 + 1e-5)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_generation(service: Service, stream: bool) -> None:
    url = service.engine_url("heron")
    address = urlsplit(service.url)
    fields = _long_generation(n=128, stream=stream)
    body = json.dumps(fields).encode()
    for _ in range(5):  # a generation may be over before the client is seen to leave
        before = _tokens_at_rest(url)
        with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
            connection.sendall(head(len(body)) + body)
            wait_for(lambda b=before: _generated_tokens(url) > b, 20, "the engine generates")
        wait_until_idle(service)
        if _tokens_at_rest(url) - before < fields["n"] * fields["max_tokens"]:
            return
    pytest.fail("every generation went on to its end after its client had left")


def test_a_cancel_is_seen_in_vllms_running_count(service: Service) -> None:
    url = service.engine_url("heron")
    body = _long_generation(n=60, stream=True)
    before = _generated_tokens(url)
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        chunks = answer.iter_bytes()  # httpx closes the connection with an iterator that nobody keeps
        next(chunks)
        wait_for(lambda: _metric(url, "vllm:num_requests_running") >= 10, 20, "vLLM runs the sequences")
    wait_until_idle(service)
    # vLLM counts anew with every step, so somebody has to make it take one.
    assert service.chat(model="heron", max_tokens=1).status_code == 200
    assert _metric(url, "vllm:num_requests_running") <= 1
    tokens = _generated_tokens(url)
    assert tokens - before < body["n"] * body["max_tokens"], "the generation ended early"
    time.sleep(0.5)
    assert _generated_tokens(url) == tokens, "nothing is generated any more"


def _long_generation(n: int, stream: bool) -> dict[str, Any]:
    """A request that keeps the engine of heron busy with so many sequences."""
    return {
        "model": "heron",
        "messages": [{"role": "user", "content": "x"}],
        "n": n,
        "temperature": 1.0,
        "max_tokens": 240,
        "ignore_eos": True,
        "stream": stream,
    }


def _metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def _tokens_at_rest(url: str) -> float:
    """What the engine has generated so far, once it generates no more."""
    tokens = -1.0
    while tokens != (tokens := _generated_tokens(url)):
        time.sleep(0.5)
    return tokens


def _generated_tokens(url: str) -> float:
    return _metric(url, "vllm:generation_tokens_total")


def test_the_console_tells_every_second_through_the_proxy_and_ends_when_nobody_looks(service: Service) -> None:
    batch = dict(part.split("=") for part in service.chat().headers["x-router-batch"].split("; "))
    assert "<title>Apportion</title>" in httpx.get(f"{service.url}/console").text
    told = []
    with httpx.stream("GET", f"{service.url}/console/events", timeout=10) as answer:
        for line in filter(None, answer.iter_lines()):
            told.append(json.loads(line.removeprefix("data: ")))
            if len(told) == 2:
                break
    assert tuple(told[0]["models"]) == MODELS
    assert int(batch["id"]) in {one["id"] for one in told[0]["batches"]}
    assert told[1]["batches"] == []


def test_the_budget_changes_without_a_restart(service: Service) -> None:
    from apportion.deployments.cluster.launch import deploy

    before = service.replicas()
    routing = service.document["applications"][0]["args"]["routing"]
    before_usd = routing["budget_usd_per_request"]
    try:
        for budget_usd in (1e-9, before_usd):
            changed = json.loads(json.dumps(service.document))
            changed["applications"][0]["deployments"] = [
                {"name": "Router", "user_config": routing | {"budget_usd_per_request": budget_usd}}
            ]
            deploy(changed)
            wait_for(
                lambda b=budget_usd: service.health().get("budget_usd_per_request") == b,
                90,
                "the router has the budget",
            )
            assert service.chat().status_code == (402 if budget_usd == 1e-9 else 200)
    finally:
        deploy(service.document)
    assert service.replicas() == before


def test_a_killed_engine_heals_and_the_others_answer_meanwhile(service: Service) -> None:
    before = set(service.replicas())
    kill(replicas("Engine-wren")[0])
    for _ in range(10):
        answer = service.chat()
        assert answer.status_code == 200, answer.text
    wait_for(lambda: (now := set(service.replicas())) and not before <= now, 240, "the dead replica is forgotten")
    wait_for(lambda: service.slots("wren") > 0, 240, "wren has a replica again")
    assert service.chat(model="wren").status_code == 200
    wait_until_idle(service)
