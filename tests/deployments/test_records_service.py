"""Feedback, records and another artefact at the running service: its APIs, two processes that write, one that reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from apportion.deployments.cli import app
from apportion.deployments.cluster.launch import deploy
from apportion.deployments.config.models import ModelConfig, resolve_source
from apportion.deployments.wire.engine_headers import REQUEST_HEADER, SIGNALS_ASKED_HEADER
from apportion.deployments.wire.logprobs import asking_for_logprobs, signals_of_choice
from apportion.deployments.wire.settlement import SettledStream, settled_of
from apportion.router.outcomes.files import read_outcomes
from apportion.router.records.schema import FEEDBACK, PROMPTS, REQUESTS
from apportion.router.records.store import Store
from apportion.router.signals import SIGNALS, Signals
from benchmarks.load.service import Place, engine_places
from tests.deployments.processes import replicas
from tests.deployments.service import Service, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

ASKED = [{"role": "user", "content": "What is 4 plus 5?"}]
FINCH = {"model": "finch", "temperature": 0, "max_tokens": 8}


@pytest.fixture
def uri(service: Service) -> str:
    records = service.document["applications"][0]["args"].get("records")
    if records is None:
        pytest.skip("the service that APPORTION_URL names keeps no records")
    return str(records["uri"])


def by_id(answer: httpx.Response) -> str:
    return str(answer.json()["id"])


def by_first_chunk(answer: httpx.Response) -> str:
    return str(json.loads(answer.text.split("\n\n")[0].removeprefix("data: "))["id"])


def by_header(answer: httpx.Response) -> str:
    assert answer.headers["x-router-id"] == answer.headers["request-id"]
    return str(answer.headers["request-id"])


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", {"messages": ASKED}, by_id),
        ("/v1/chat/completions", {"messages": ASKED, "stream": True}, by_first_chunk),
        ("/v1/completions", {"prompt": "4 plus 5"}, by_id),
        ("/v1/messages", {"messages": ASKED}, by_id),
        ("/v1/responses", {"input": "What is 4 plus 5?", "max_tokens": None, "max_output_tokens": 8}, by_header),
    ],
)
def test_answers_of_every_api_take_feedback_and_are_recorded(
    service: Service, uri: str, path: str, body: dict[str, Any], name: Callable[[httpx.Response], str]
) -> None:
    answer = service.post(path, FINCH | body)
    assert answer.status_code == 200, answer.text
    told = service.post("/v1/feedback", {"id": name(answer), "key": "correct", "value": True})
    assert told.status_code == 202, told.text
    unknown = service.post("/v1/feedback", {"id": "chatcmpl-" + "0" * 40, "key": "correct", "value": True})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "answer_not_found")

    mine, store = answer.headers["x-router-id"], Store.open(uri)
    for kind in (REQUESTS, FEEDBACK, PROMPTS):
        wait_for(lambda k=kind: mine in store.read(k)["id"].to_pylist(), 20, f"the answer is among {kind.name}")
    [row] = [row for row in store.read(REQUESTS).to_pylist() if row["id"] == mine]
    assert (row["chosen"], row["status"], row["named"]) == ("finch", 200, True)
    assert row["input_tokens"] > 3
    assert 0 < row["output_tokens"] <= 8
    assert service.health()["records"] == {"dropped": {"requests": 0, "feedback": 0}, "error": None}


@pytest.fixture(scope="module")
def finch(service: Service) -> Place:
    """An engine's own port."""
    told = next(one for one in service.document["applications"][0]["args"]["models"] if one["name"] == "finch")
    return engine_places(service.url, [ModelConfig.model_validate(told)], 60)["finch"]


def merged(one: Any, other: Any, key: str = "") -> Any:
    """Two pieces of a stream as the one that they would have been had their tokens come together."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: merged(one[name], value, name) if name in one else value for name, value in other.items()}
    if isinstance(one, list) and isinstance(other, list):
        return [merged(one[0], other[0])] if key == "choices" else one + other
    if key in ("text", "content", "delta") and isinstance(one, str) and isinstance(other, str):
        return one + other
    return one if other is None else other


def whole_stream(passed: bytes) -> list[Any]:
    """Its events with neighbours of one kind merged: a busy machine sends two tokens in one event where it has both."""
    events: list[Any] = []
    for line in passed.decode().splitlines():
        data = line.removeprefix("data: ")
        event = json.loads(data) if data.startswith("{") else data
        if isinstance(event, dict):
            event.pop("sequence_number", None)
        if event == "" or (isinstance(event, str) and event.startswith("event: ")):
            continue
        last = events[-1] if events else None
        if isinstance(event, dict) and isinstance(last, dict) and event.get("type") == last.get("type"):
            events[-1] = merged(last, event)
        else:
            events.append(event)
    return events


def engine_answer(place: Place, path: str, body: dict[str, Any], *, asked: bool) -> tuple[Any, Signals | None]:
    """What its ingress passes on, but for the second that it was made in, and the signals."""
    marked = {SIGNALS_ASKED_HEADER: "1"} if asked else {}
    headers = place.headers | {REQUEST_HEADER: "r"} | marked
    answer = httpx.post(f"{place.url}{path}", json=FINCH | body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    if body.get("stream"):
        stream = SettledStream(told=False)
        passed, settled = stream.passed(answer.content), stream.settled
    else:
        passed, settled = answer.content, settled_of(answer.headers)
    assert settled is not None
    # Responses and messages get a name of their own from vLLM.
    passed = re.sub(rb'"(created|created_at|completed_at|id|item_id)":("[^"]+"|[\d.]+)', rb'"\1":0', passed)
    return whole_stream(passed) if body.get("stream") else passed, settled.signals


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASKED}),
        ("/v1/chat/completions", {"messages": ASKED, "logprobs": True}),
        ("/v1/chat/completions", {"messages": ASKED, "logprobs": True, "top_logprobs": 5}),
        ("/v1/chat/completions", {"messages": ASKED, "structured_outputs": {"choice": ["9", "99"]}}),
        ("/v1/completions", {"prompt": "4 plus 5"}),
        ("/v1/completions", {"prompt": "4 plus 5", "logprobs": 1}),
        ("/v1/messages", {"messages": ASKED}),
        ("/v1/responses", {"input": "What is 4 plus 5?", "max_output_tokens": 8}),
    ],
)
def test_an_answer_is_the_same_byte_for_byte_whether_signals_are_asked_for_or_not(
    finch: Place, path: str, body: dict[str, Any], stream: bool
) -> None:
    body = body | {"stream": stream}
    (quiet, nothing), (marked, signals) = (engine_answer(finch, path, body, asked=asked) for asked in (False, True))
    assert marked == quiet
    assert nothing is None
    assert signals is not None


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", {"messages": ASKED}), ("/v1/completions", {"prompt": "4 plus 5"})]
)
def test_records_keep_what_a_client_would_make_of_log_probabilities(
    service: Service, uri: str, path: str, body: dict[str, Any]
) -> None:
    told = signals_of_choice(service.post(path, asking_for_logprobs(FINCH | body)).json()["choices"][0])
    answers = [service.post(path, FINCH | body | {"stream": stream}) for stream in (False, True)]
    assert not [answer for answer in answers if "signals" in answer.text + str(answer.headers)]
    mine, store = [answer.headers["x-router-id"] for answer in answers], Store.open(uri)
    wait_for(lambda: set(mine) <= set(store.read(REQUESTS)["id"].to_pylist()), 20, "the answers are recorded")
    for row in store.read(REQUESTS).to_pylist():
        if row["id"] in mine:
            assert [row[name] for name in SIGNALS] == pytest.approx(told, abs=1e-4)


def test_records_are_a_table_to_learn_from(service: Service, uri: str, tmp_path: Path) -> None:
    answer = service.chat()
    service.post("/v1/feedback", {"id": answer.json()["id"], "key": "correct", "value": False})
    mine, store = answer.headers["x-router-id"], Store.open(uri)
    for kind in (REQUESTS, FEEDBACK, PROMPTS):
        wait_for(lambda k=kind: mine in store.read(k)["id"].to_pylist(), 20, f"the answer is among {kind.name}")
    done = CliRunner().invoke(app, ["outcomes", "--records", uri, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output

    table = read_outcomes(tmp_path)
    row = table.queries["query_id"].tolist().index(mine)
    column = table.models.index(answer.headers["x-router-model"])
    assert table.prompts[row] == "What is 2 plus 3?"
    assert table.scores[row, column] == 0.0
    assert np.isfinite(table.scores[row]).sum() == 1
    usage = answer.json()["usage"]
    assert table.input_tokens[row, column] == usage["prompt_tokens"]
    assert table.output_tokens[row, column] == usage["completion_tokens"]
    assert table.signals is not None
    assert np.isfinite(table.signals[row]).all(axis=-1).tolist() == np.isfinite(table.scores[row]).tolist()
    assert table.cost_usd[row, column] == pytest.approx(float(answer.headers["x-router-settled-cost-usd"]), abs=1e-9)


def test_the_predictor_takes_another_artefact_without_a_restart_and_the_first_one_again(
    service: Service, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(resolve_source("zoo:predictor"), other)
    arrays = load_file(str(other / "weights.safetensors"))
    arrays["calibration.bucket_values"] = np.ascontiguousarray(0.1 * arrays["calibration.bucket_values"])
    save_file(arrays, str(other / "weights.safetensors"))

    def success() -> float:
        return float(service.chat(model="heron", max_tokens=4).headers["x-router-success"])

    before, processes = success(), replicas("Predictor")
    changed = json.loads(json.dumps(service.document))
    changed["applications"][0]["deployments"] = [{"name": "Predictor", "user_config": {"artefact": str(other)}}]
    try:
        deploy(changed)
        wait_for(lambda: success() < 0.5 * before, 90, "the other artefact predicts")
    finally:
        deploy(service.document)
    wait_for(lambda: success() == pytest.approx(before), 90, "the first artefact predicts")
    assert replicas("Predictor") == processes
