"""Random requests after our own OpenAPI document: whatever comes, no 5xx, our envelope, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.deployments.service import Service, holds_nothing, wait_for

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/route"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{file_id}"),
    ("DELETE", "/v1/files/{file_id}"),
    ("GET", "/v1/files/{file_id}/content"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/batches/{batch_id}"),
    ("POST", "/v1/batches/{batch_id}/cancel"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/metrics/targets"),
]


@pytest.fixture(scope="module")
def document(service: Service) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def test_the_document_names_what_is_served(document: Any) -> None:
    described = {(found.ok().method.upper(), found.ok().path) for found in document.get_all_operations()}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_breaks_the_service(document: Any, method: str, path: str) -> None:
    cases = document[path][method].as_strategy()

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(case=cases)
    def attack(case: Any) -> None:
        answer = case.call(timeout=60)
        timed_out = answer.status_code == 504 and "timeout_s" in str(case.body)  # it asked for less than it takes
        refused = answer.status_code == 503 and path == "/health"  # says that a part does not work
        assert answer.status_code < 500 or timed_out or refused, answer.text
        if answer.status_code >= 400 and not refused:
            error = answer.json()["error"]
            anthropics = path.startswith("/v1/messages")
            assert set(error) == ({"message", "type"} if anthropics else {"message", "type", "param", "code"})
            assert error["message"]

    attack()


def test_nothing_is_left_behind(service: Service) -> None:
    wait_for(lambda: holds_nothing(service.health()), 20, "nothing is held")
    assert service.health()["waiting_for_budget"] == 0
