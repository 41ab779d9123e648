"""Training, serving and the commands see the same of one request: what they would predict from is equal to the bit."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.outcomes import read_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.estimation import RequestEstimator
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.preparation import encode_in_steps
from apportion.router.prediction.prompts import read_requests
from apportion.router.prediction.training import train_predictor
from apportion.router.prices import ModelPrice
from apportion.router.traits import PLAIN, Traits
from tests.samples import make_outcomes

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("stock", "price")]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"png").decode()}}
CLIP = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"wav").decode(), "format": "wav"}}


def _ask(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


SHAPES: list[dict[str, Any]] = [
    {"messages": [_ask("plain")]},
    {"messages": [{"role": "system", "content": "Be brief."}, _ask("With a system prompt")]},
    {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be"}]}, _ask("parts")]},
    {"messages": [_ask("tools")], "tools": TOOLS},
    {"messages": [_ask("no tools")], "tools": TOOLS, "tool_choice": "none"},
    {"messages": [_ask("null")], "tools": None, "response_format": None, "tool_choice": None},
    {"messages": [_ask("schema")], "response_format": SCHEMA},
    {"messages": [_ask("text")], "response_format": {"type": "text"}},
    {"messages": [_ask("choice")], "structured_outputs": {"choice": ["a", "b"]}},
    {"messages": [_ask([{"type": "text", "text": "Look"}, PICTURE, PICTURE, CLIP])]},
    {"messages": [_ask([PICTURE])]},
    {"messages": [_ask("one"), {"role": "assistant", "content": None, "tool_calls": []}, _ask("two")]},
    {"messages": [_ask(""), {"role": "assistant", "content": "\0"}, _ask("\0 odd \u202e")]},
    {"messages": [_ask("long " * 9_000)]},
]
MANY = [  # each shape as it is, and then with other words, which splits need
    {**shape, "messages": [*shape["messages"], *([_ask(f"{i} in all?")] if i else [])]}
    for i in range(20)
    for shape in SHAPES
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bodies as lines of the Batch API, with outcomes of two models beside them."""
    lines = [
        {"custom_id": str(i), "url": "/v1/chat/completions", "body": body, "model": model}
        | {"score": float((i + j) % 3 > 0), "output_tokens": 5, "input_tokens": 9}
        for i, body in enumerate(MANY)
        for j, model in enumerate(("m1", "m2"))
    ]
    written = tmp_path_factory.mktemp("outcomes") / "outcomes.jsonl"
    written.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return written


@pytest.fixture(scope="module")
def table(file: Path) -> OutcomesTable:
    return read_outcomes(file)


def served(body: dict[str, Any]) -> ParsedRequest:
    return parse("chat", json.dumps(body).encode(), {}, Rules(("m1", "m2")))


def test_one_request_reads_the_same_everywhere(table: OutcomesTable, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(body) + "\n" for body in SHAPES))
    of_commands = [request.traits for request in read_requests(tmp_path / "prompts.jsonl")]
    read = [served(body) for body in SHAPES]
    assert [one.prompt.traits for one in read] == of_commands == table.traits[: len(SHAPES)]
    assert len(set(of_commands)) == 8
    assert read[9].prompt.traits == Traits(images=2, audio=1)
    assert [(one.prompt.traits.images, one.prompt.traits.audio) for one in read] == [
        (one.item.needs.images, one.item.needs.audio) for one in read
    ]


def test_what_is_served_is_predicted_as_what_was_learned_from(encoder: Encoder, table: OutcomesTable) -> None:
    predictor = train_predictor(table, encoder, estimator=HeadEstimator(members=2, hidden=8, max_epochs=5))
    read = predictor.calibrated.estimator.weights.reach.width  # type: ignore[attr-defined]
    assert read == 7
    prompts = [served(body).prompt for body in MANY[:64]]
    estimates = RequestEstimator(predictor).estimate(prompts, [ModelPrice(1, 1)] * 2)
    learned = predictor.predict_features(encode_in_steps(table.subset(np.arange(64)), encoder))
    np.testing.assert_array_equal(estimates.success, learned.success)
    np.testing.assert_array_equal(estimates.output_tokens, learned.output_tokens)


@pytest.mark.parametrize(
    ("kind", "body", "traits"),
    [
        ("completion", {"prompt": "a"}, PLAIN),
        ("completion", {"prompt": ["a", "b"], "response_format": SCHEMA}, Traits(structured_outputs=1)),
        (
            "message",
            {"system": "Be brief.", "messages": [_ask("a")], "max_tokens": 5}
            | {"tools": [{"name": "stock", "input_schema": {"type": "object"}}]},
            Traits(tools=1, system_chars=9),
        ),
        (
            "response",
            {"instructions": "Be brief.", "input": "a", "tools": [{"type": "function", "name": "stock"}]}
            | {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}},
            Traits(tools=1, structured_outputs=1, system_chars=9),
        ),
    ],
)
def test_every_endpoint_says_what_its_chat_would(kind: Any, body: dict[str, Any], traits: Traits) -> None:
    assert parse(kind, json.dumps(body).encode(), {}, Rules(("m1",))).prompt.traits == traits


def test_it_travels_light() -> None:
    """A report of many requests holds some bytes a request for it, however long its system prompt."""
    chat = {"messages": [{"role": "system", "content": "x" * 50_000}, _ask("a")], "tools": TOOLS}
    traits = [served(chat).prompt.traits] * 2
    assert len(pickle.dumps([Traits(*traits[0]), Traits(*traits[1])])) - len(pickle.dumps(traits[:1])) < 30


def test_a_table_of_prompts_is_one_of_plain_requests() -> None:
    assert set(make_outcomes(20, seed=0).traits) == {PLAIN}
