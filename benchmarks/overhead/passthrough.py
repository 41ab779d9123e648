"""The baseline: a plain Ray Serve application that routes nothing.

HAProxy -> ingress -> deployment handle -> replica, answers canned as those of the simulated engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.testclient import TestClient

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.simulated import SimulatedEngine

api = FastAPI()


@serve.deployment(max_ongoing_requests=10_000)
class CannedReplica:
    """Answers with what a simulated engine would send, recorded once."""

    def __init__(self, model: ModelConfig) -> None:
        client = TestClient(SimulatedEngine(model).app)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
        self._answer = client.post("/v1/chat/completions", json=body).content
        stream = client.post("/v1/chat/completions", json=body | {"stream": True}).text
        self._events = [f"{event}\n\n" for event in stream.split("\n\n") if event]

    async def answer(self, body: bytes) -> bytes:
        return self._answer

    async def stream(self, body: bytes) -> AsyncIterator[str]:
        for event in self._events:
            yield event


@serve.deployment(max_ongoing_requests=10_000)
@serve.ingress(api)
class PassthroughIngress:
    """Hands every request to the replica."""

    def __init__(self, replica: DeploymentHandle) -> None:
        self._replica = replica
        self._streaming = replica.options(stream=True)

    @api.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        body = await request.body()
        if b'"stream":true' in body:
            return StreamingResponse(self._streaming.stream.remote(body), media_type="text/event-stream")
        return Response(await self._replica.answer.remote(body), media_type="application/json")


def build_passthrough(model: ModelConfig) -> serve.Application:
    options = {"logging_config": {"enable_access_log": False}, "ray_actor_options": {"num_cpus": 0.5}}
    replica = CannedReplica.options(**options).bind(model)  # type: ignore[attr-defined]
    return PassthroughIngress.options(**options).bind(replica)  # type: ignore[attr-defined]
