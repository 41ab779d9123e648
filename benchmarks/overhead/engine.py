"""`python -m benchmarks.overhead.engine PORT`: the simulated engine by itself, for proxies that are not ours."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.engine.simulated import SimulatedEngine

MODEL = ModelConfig(
    name="simulated",
    source="none",
    input_usd_per_million=1.0,
    output_usd_per_million=1.0,
    engine="simulated",
    max_model_len=4096,
    simulated=SimulatedConfig(),
)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _models(_: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": MODEL.name, "object": "model", "owned_by": "apportion"}]})


def main(port: int) -> None:
    engine = Mount("/", SimulatedEngine(MODEL).app)
    # Proxies ask for the first two before they send anything.
    app = Starlette(routes=[Route("/health", _health), Route("/v1/models", _models), engine])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
