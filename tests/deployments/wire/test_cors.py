"""Pages of origins that the configuration names may call the service, and no others."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from apportion.deployments.wire.cors import Cors

PREFLIGHT = {
    "origin": "https://chat.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}


def application() -> FastAPI:
    api = FastAPI()
    api.add_middleware(Cors)

    @api.post("/v1/x")
    async def post() -> Response:
        return PlainTextResponse("", status_code=401, headers={"x-router-model": "wren"})

    return api


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cors, "_allowed", None)
    Cors.allow(["https://chat.example"], 60)


async def test_a_preflight_needs_no_key(allowed: None) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application()), base_url="http://test") as client:
        answer = await client.options("/v1/x", headers=PREFLIGHT)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "authorization" in answer.headers["access-control-allow-headers"]
        for method, status in (("DELETE", 200), ("PUT", 400)):
            asked = PREFLIGHT | {"access-control-request-method": method}
            assert (await client.options("/v1/x", headers=asked)).status_code == status
        other = await client.options("/v1/x", headers=PREFLIGHT | {"origin": "https://other.example"})
        assert other.status_code == 400
        real = await client.post("/v1/x", headers={"origin": "https://chat.example"})
        assert (real.status_code, real.headers["access-control-expose-headers"]) == (401, "*")


async def test_without_configuration_no_page_is_let_in() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application()), base_url="http://test") as client:
        answer = await client.options("/v1/x", headers=PREFLIGHT)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers
