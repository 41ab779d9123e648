"""Agents' loops on the real service: calls that vLLM's parser reads, routed to the one model that makes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from benchmarks.zoo.capitals import TOOL, capital
from tests.deployments.service import MODELS, Service, holds_nothing, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

CALLER = "finch"
QUESTION, COUNTRIES, ANSWER = "capital of Rwanda and of Nepal", ["Rwanda", "Nepal"], "Kigali,Kathmandu"
MOST_TURNS = 4

Turn = dict[str, Any]


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def loop(ask: Callable[[list[Turn]], Turn], messages: list[Turn]) -> list[str]:
    """Asks until there is an answer, and runs the calls; the conversation goes into `messages`.

    Returns:
        The countries whose capitals were asked of the tool.
    """
    countries = []
    for _ in range(MOST_TURNS):
        turn = ask(messages)
        messages.append(turn)
        if not turn.get("tool_calls"):
            return countries
        for call in turn["tool_calls"]:
            assert call["function"]["name"] == "capital"
            countries.append(json.loads(call["function"]["arguments"])["country"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": capital(countries[-1])})
    raise AssertionError(f"no answer after {MOST_TURNS} turns")


def user(text: str) -> Turn:
    return {"role": "user", "content": text}


def test_a_loop_of_several_turns_ends_with_the_right_answer(service: Service, client: openai.OpenAI) -> None:
    turns: list[tuple[str, str, str]] = []

    def ask(messages: list[Turn]) -> Turn:
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=messages, tools=[TOOL], temperature=0, extra_headers={"x-session-id": "a-loop"}
        )
        completion = raw.parse()
        (choice,) = completion.choices
        turns.append((completion.model, raw.headers["x-router-turn"], choice.finish_reason))
        assert raw.headers["x-router-model"] == completion.model
        return choice.message.model_dump(exclude_none=True)

    messages = [user(QUESTION)]
    assert loop(ask, messages) == COUNTRIES
    assert messages[-1]["content"] == ANSWER
    messages.append(user("capital of Kenya"))  # the conversation goes on
    assert loop(ask, messages) == ["Kenya"]
    assert messages[-1]["content"] == "Nairobi"
    assert turns == [
        (CALLER, "first", "tool_calls"),
        (CALLER, "stays", "tool_calls"),
        (CALLER, "stays", "stop"),
        (CALLER, "stays", "tool_calls"),
        (CALLER, "stays", "stop"),
    ]
    wait_for(lambda: holds_nothing(service.health()), 20, "nothing is held")


def test_a_streamed_loop_ends_likewise(client: openai.OpenAI) -> None:
    def ask(messages: list[Turn]) -> Turn:
        with client.chat.completions.stream(model="auto", messages=messages, tools=[TOOL], temperature=0) as stream:
            events = list(stream)
            message = stream.get_final_completion().choices[0].message
        told = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
        assert "".join(told) == "".join(call.function.arguments for call in message.tool_calls or ())
        return message.model_dump(exclude_none=True, exclude={"parsed"})

    messages = [user(QUESTION)]
    assert loop(ask, messages) == COUNTRIES
    assert messages[-1]["content"] == ANSWER


def test_only_the_caller_is_asked_with_tools_and_all_without(service: Service, client: openai.OpenAI) -> None:
    plain = {"model": "auto", "messages": [user("What is 4 plus 5?")], "max_tokens": 16}
    (without, beside) = service.post("/v1/route", {"requests": [plain, plain | {"tools": [TOOL]}]}).json()["data"]
    assert {one["model"]: one["allowed"] for one in without["candidates"]} == dict.fromkeys(MODELS, True)
    reasons = {one["model"]: one["reason"] for one in beside["candidates"]}
    assert reasons == dict.fromkeys(MODELS, "calls no tools") | {CALLER: None}
    with pytest.raises(openai.BadRequestError, match="heron: calls no tools"):
        client.chat.completions.create(model="heron", messages=[user(QUESTION)], tools=[TOOL])
    with pytest.raises(openai.BadRequestError, match=f"{CALLER}: makes one tool call at a time"):
        client.chat.completions.create(model="auto", messages=[user(QUESTION)], tools=[TOOL], parallel_tool_calls=True)
    told = {one.id: one.model_dump()["capabilities"] for one in client.models.list()}
    assert [name for name in MODELS if told[name]["tools"]] == [CALLER]
    assert told["auto"]["tools"]


def test_what_needs_no_tool_is_answered_at_once_beside_it(service: Service) -> None:
    choice = service.chat("opposite of hot", tools=[TOOL]).json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "cold")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "capital"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_it_can_be_made_to_call(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    asked = {"model": "auto", "messages": [user("capital of Kenya")], "tools": [TOOL], "tool_choice": choice}
    if stream:
        with client.chat.completions.stream(**asked) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**asked).choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("capital", {"country": "Kenya"})


def test_responses_loop_too(client: openai.OpenAI) -> None:
    tool = {"type": "function", **TOOL["function"], "strict": False}
    items: list[Any] = [user(QUESTION)]
    countries = []
    for _ in range(MOST_TURNS):
        with client.responses.stream(model="auto", input=items, tools=[tool], temperature=0) as stream:
            kinds = [event.type for event in stream]
            response = stream.get_final_response()
        assert response.model == CALLER
        calls = [item for item in response.output if item.type == "function_call"]
        assert kinds.count("response.function_call_arguments.done") == len(calls)
        items += response.output
        if not calls:
            break
        for call in calls:
            countries.append(json.loads(call.arguments)["country"])
            output = capital(countries[-1])
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    assert (countries, response.output_text) == (COUNTRIES, ANSWER)
    again = client.responses.create(model="auto", input=QUESTION, tools=[tool], temperature=0)
    assert [item.type for item in again.output] == ["function_call"]


def test_messages_loop_too(service: Service) -> None:
    client = anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0, timeout=60)
    function = TOOL["function"]
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    messages: list[Any] = [user(QUESTION)]
    countries = []
    for _ in range(MOST_TURNS):
        asked = {"model": "auto", "max_tokens": 64, "messages": messages, "tools": [tool]}
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
        assert message.model == CALLER
        messages.append({"role": "assistant", "content": message.content})
        calls = [block for block in message.content if block.type == "tool_use"]
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
        if not calls:
            break
        countries += [call.input["country"] for call in calls]
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": capital(call.input["country"])} for call in calls
        ]
        messages.append({"role": "user", "content": results})
    assert (countries, message.content[0].text) == (COUNTRIES, ANSWER)
    again = client.messages.create(model="auto", max_tokens=64, messages=[user(QUESTION)], tools=[tool])
    assert [block.type for block in again.content] == ["tool_use"]
