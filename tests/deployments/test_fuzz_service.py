"""Random requests after our own OpenAPI document: whatever comes, no 5xx, our envelope, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.deployments.service import Service

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def api_schema(service: Service) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_breaks_the_service(case: Any) -> None:
    answer = case.call(timeout=60)
    timed_out = answer.status_code == 504 and "timeout_s" in str(case.body)  # it asked for less time than it takes
    assert answer.status_code < 500 or timed_out, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


def test_nothing_is_left_behind(service: Service) -> None:
    state = httpx.get(f"{service.url}/health", timeout=30).json()
    assert (state["in_flight"], state["waiting"], state["waiting_for_budget"]) == (0, 0, 0)
    assert all(model["free_slots"] == model["slots"] for model in state["models"].values())
