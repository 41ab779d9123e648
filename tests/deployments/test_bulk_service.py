"""Batches of the running service: by the official client and by the command line, answered by real engines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from apportion.deployments.cli import app
from tests.deployments.service import MODELS, Service, holds_nothing, wait_for

pytestmark = pytest.mark.ray

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
PATIENCE_S = 120.0


def line(number: int, **body: Any) -> bytes:
    asked = {"messages": [{"role": "user", "content": f"What is {number} plus 3?"}], "max_tokens": 16} | body
    return json.dumps({"custom_id": f"row-{number}", "method": "POST", "url": CHAT, "body": asked}).encode()


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="none") as found:
        yield found


def created(client: OpenAI, *lines: bytes, **routing: Any) -> Any:
    file = client.files.create(file=("requests.jsonl", b"\n".join(lines)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", extra_body={"routing": routing}
    )


def ended(client: OpenAI, batch: Any) -> Any:
    wait_for(lambda: client.batches.retrieve(batch.id).status in ENDED, PATIENCE_S, f"{batch.id} has ended")
    return client.batches.retrieve(batch.id)


def lines_of(client: OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def test_a_file_is_answered_line_by_line_within_its_budget(service: Service, client: OpenAI) -> None:
    named = [line(30 + number, model=model) for number, model in enumerate(MODELS)]
    broken = line(40, messages="no list")

    batch = ended(client, created(client, *map(line, range(30)), *named, broken, budget_usd=1))

    assert (batch.status, dict(batch.request_counts)) == ("completed", {"total": 35, "completed": 34, "failed": 1})
    answers = lines_of(client, batch.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"row-{number}" for number in range(34)]
    assert [answer["response"]["body"]["model"] for answer in answers[30:]] == list(MODELS)
    assert all(answer["response"]["status_code"] == 200 and answer["error"] is None for answer in answers)
    (refused,) = lines_of(client, batch.error_file_id)
    assert (refused["custom_id"], refused["response"]["status_code"]) == ("row-40", 400)
    used = [answer["response"]["body"]["usage"] for answer in answers]
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in used)
    told = batch.to_dict()["apportion"]
    assert 0 < told["spent_usd"] <= 1
    assert sum(told["by_model"].values()) == 34
    wait_for(lambda: holds_nothing(service.health()), 20, "nothing is held")


def test_a_budget_that_does_not_suffice_is_an_answer_before_anything_runs(client: OpenAI) -> None:
    batch = ended(client, created(client, *map(line, range(20)), budget_usd=1e-9))

    assert (batch.status, batch.output_file_id, batch.usage) == ("failed", None, None)
    assert batch.errors.data[0].code == "budget_exceeded"
    assert batch.to_dict()["apportion"]["spent_usd"] == 0


def test_a_batch_that_is_cancelled_ends_with_all_its_lines(client: OpenAI) -> None:
    batch = created(client, *map(line, range(2000)))
    wait_for(lambda: client.batches.retrieve(batch.id).status != "validating", PATIENCE_S, "it runs")

    client.batches.cancel(batch.id)

    stopped = ended(client, batch)
    assert stopped.status == "cancelled"
    found = [lines_of(client, one) for one in (stopped.output_file_id, stopped.error_file_id) if one is not None]
    assert sorted(one["custom_id"] for lines in found for one in lines) == sorted(f"row-{row}" for row in range(2000))


def test_the_command_line_sends_waits_and_fetches(service: Service, tmp_path: Path) -> None:
    requests, out = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    requests.write_bytes(b"\n".join(map(line, range(20))))
    words = ["bulk", "submit", str(requests), "--budget-usd", "1", "--wait", "--out", str(out)]

    done = CliRunner().invoke(app, [*words, "--url", f"{service.url}/v1"])

    assert done.exit_code == 0, done.output
    assert "completed; 20 of 20 answered, 0 failed" in done.stdout
    assert len(out.read_text().splitlines()) == 20


def test_others_are_answered_beside_a_batch(service: Service, client: OpenAI) -> None:
    batch = created(client, *map(line, range(200)))
    slowest_s = 0.0
    while client.batches.retrieve(batch.id).status not in ENDED:
        started_s = time.monotonic()
        assert service.chat().status_code == 200
        slowest_s = max(slowest_s, time.monotonic() - started_s)

    assert ended(client, batch).request_counts.completed == 200
    assert slowest_s < 30
    assert [file.purpose for file in client.files.list(limit=1).data] == ["batch_output"]
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
