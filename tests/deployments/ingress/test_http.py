"""What the application answers before anything is routed."""

from __future__ import annotations

import httpx
import openai
import pytest

from apportion.deployments.ingress.ingress import api
from apportion.deployments.wire.errors import error_response
from apportion.deployments.wire.headers import ignored_header
from apportion.router.errors import (
    ApportionError,
    BudgetExceededError,
    BudgetExhaustedError,
    ContextLengthError,
    InfeasibleError,
    OverloadedError,
    UnavailableError,
    UnknownModelError,
    UnsupportedEncodingError,
)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v1/chat/completions", 405, {"POST"}),
        ("HEAD", "//v1/completions/", 405, {"POST"}),
        ("POST", "/v1/models", 405, {"GET", "HEAD"}),
        ("POST", "/v1/nothing", 404, None),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    method: str, path: str, status: int, allowed: set[str] | None
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        answer = await client.request(method, f"http://test{path}")
    assert answer.status_code == status
    assert (set(answer.headers["allow"].split(", ")) if allowed else answer.headers.get("allow")) == allowed


@pytest.mark.parametrize("prefix", ["", "/llm", "/a/b"])
async def test_what_is_told_of_paths_holds_under_a_prefix(prefix: str) -> None:
    transport = httpx.ASGITransport(api, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://test{prefix}/") as client:
        error = (await client.get("v1/nothing/")).json()["error"]
        assert error["message"] == f"GET {prefix}/v1/nothing: Not Found; see {prefix}/docs for what is served here"
        assert (await client.get("docs")).status_code == 200
        document = (await client.get("openapi.json")).json()
    assert document.get("servers", [{"url": ""}]) == [{"url": prefix}]


def test_clients_are_told_when_asking_again_is_in_vain() -> None:
    assert error_response(BudgetExhaustedError("x", retry_after_s=3600)).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in error_response(OverloadedError("x", retry_after_s=2)).headers


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (InfeasibleError("x"), False),  # a min_success that no model reaches
        (ContextLengthError("x"), False),
        (UnsupportedEncodingError("x"), False),
        (UnknownModelError("x"), False),
        (BudgetExceededError("x"), False),
        (BudgetExhaustedError("x", retry_after_s=3600), False),
        (OverloadedError("x"), True),
        (UnavailableError("x"), True),
    ],
)
def test_openais_client_asks_again_only_where_that_may_help(error: ApportionError, again: bool) -> None:
    answer = error_response(error)
    heard = httpx.Response(answer.status_code, headers=dict(answer.headers))
    assert openai.OpenAI(api_key="none")._should_retry(heard) is again
    assert ("retry-after" in answer.headers) == (again or error.retry_after_s is not None)


def test_strange_names_of_fields_fit_into_a_header() -> None:
    assert ignored_header([]) == []
    ((name, value),) = ignored_header(["thinking", "a\r\nset-cookie: x", *(f"field{i}" for i in range(1000))])
    assert name == b"x-router-ignored"
    assert value.startswith(b"thinking, a??set-cookie??x, field0")
    assert len(value) < 2000
