"""HEAD says what GET would, without the body; paths may be joined carelessly."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from apportion.deployments.wire.asgi import HeadAsGet, PlainPaths

api = FastAPI()
api.add_middleware(HeadAsGet)
api.add_middleware(PlainPaths)


@api.get("/here")
async def here() -> dict[str, str]:
    return {"a": "b"}


@api.post("/post")
async def post() -> None: ...


@pytest.mark.parametrize(("path", "status"), [("/here", 200), ("/post", 405), ("/nowhere", 404), ("/docs", 200)])
async def test_head_is_get_without_a_body(path: str, status: int) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (status, b"")
    assert head.headers == get.headers


@pytest.mark.parametrize("path", ["/here/", "//here", "/here//", "/here"])
async def test_slashes_that_are_doubled_or_at_the_end_mean_nothing(path: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        assert (await client.get(f"http://test{path}")).status_code == 200
