"""The experiment: the same load through Ray Serve's passthrough and through the router, round by round in turn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.overhead.load import Load, run_load
from benchmarks.stamp import stamp
from deployments.config import ServiceConfig, SimulatedConfig
from deployments.launch import local_ray, read_config, required_cpus

PASSTHROUGH, ROUTED = "passthrough", "routed"
# What a request crosses beside the router itself: left out of the second figure, never of the first.
ENCODER = "apportion/Predictor"


def run(config: Path, requests: int, rounds: int, console: Console) -> dict[str, Any]:
    """Measures CPU and latency a request at 1, 16 and 64 concurrent, streaming and not.

    Args:
        config: its models are simulated here (named so in the result); predictor and solver are real.
    """
    service = simulated(read_config(config)[1])
    cases = [(concurrency, stream) for stream in (False, True) for concurrency in (1, 16, 64)]
    loads: dict[tuple[int, bool, str], list[Load]] = {}
    with local_ray(required_cpus(service) + 2):
        urls = _deploy(service)
        for arm, url in urls.items():
            run_load(url, requests=64, concurrency=16, stream=False, model="auto")
            run_load(url, requests=64, concurrency=16, stream=True, model="auto")
            console.print(f"{arm} is warm")
        for _ in track(range(rounds), "rounds", console=console):
            for concurrency, stream in cases:
                for arm, url in urls.items():
                    count = max(requests // 4, 50) if concurrency == 1 else requests
                    load = run_load(url, requests=count, concurrency=concurrency, stream=stream, model="auto")
                    loads.setdefault((concurrency, stream, arm), []).append(load)
    rows = [_row(concurrency, stream, loads) for concurrency, stream in cases]
    return {"stamp": stamp(requests=requests, rounds=rounds, engines="simulated, 16 tokens"), "rows": rows}


def simulated(config: ServiceConfig) -> ServiceConfig:
    """The same service with engines that answer at once."""
    models = tuple(
        model.model_copy(
            update={
                "engine": "simulated",
                "simulated": SimulatedConfig(),
                "engine_args": {},
                "num_gpus": 0,
                "max_num_seqs": 256,
            }
        )
        for model in config.models
    )
    return config.model_copy(update={"models": models})


def _deploy(config: ServiceConfig) -> dict[str, str]:
    from ray import serve

    from benchmarks.overhead.passthrough import build_passthrough
    from deployments.app import build_application

    serve.start(http_options={"host": "127.0.0.1", "port": 8000})
    serve.run(build_passthrough(config.models[0]), name="passthrough", route_prefix="/passthrough")
    serve.run(build_application(config), name="apportion", route_prefix="/")
    path = "/v1/chat/completions"
    return {PASSTHROUGH: f"http://127.0.0.1:8000/passthrough{path}", ROUTED: f"http://127.0.0.1:8000{path}"}


def _row(concurrency: int, stream: bool, loads: dict[tuple[int, bool, str], list[Load]]) -> dict[str, Any]:
    row: dict[str, Any] = {"concurrency": concurrency, "stream": stream}
    for arm in (PASSTHROUGH, ROUTED):
        rounds = loads[concurrency, stream, arm]
        row[arm] = {
            "cpu_ms_per_request": _median([_cpu_ms(load, arm) for load in rounds]),
            "cpu_ms_per_request_without_encoder": _median([_cpu_ms(load, arm, skip=ENCODER) for load in rounds]),
            "requests_per_s": _median([load.requests_per_s for load in rounds]),
            "latency_ms_p50": _median([load.latency_ms_p50 for load in rounds]),
            "first_byte_ms_p50": _median([load.first_byte_ms_p50 for load in rounds]),
            "errors": sum(load.errors for load in rounds),
            "rounds": [asdict(load) for load in rounds],
        }
    pairs = zip(loads[concurrency, stream, ROUTED], loads[concurrency, stream, PASSTHROUGH], strict=True)
    pairs = list(pairs)
    row["cpu_ratio"] = _median([_cpu_ms(a, ROUTED) / _cpu_ms(b, PASSTHROUGH) for a, b in pairs])
    row["cpu_ratio_without_encoder"] = _median(
        [_cpu_ms(a, ROUTED, skip=ENCODER) / _cpu_ms(b, PASSTHROUGH) for a, b in pairs]
    )
    return row


def _cpu_ms(load: Load, arm: str, skip: str | None = None) -> float:
    """CPU of the arm's own application and of the proxy, a request."""
    application = "passthrough/" if arm == PASSTHROUGH else "apportion/"
    kinds = [kind for kind in load.cpu_ms if kind == "haproxy" or kind.startswith(application)]
    return sum(load.cpu_ms[kind] for kind in kinds if kind != skip) / load.requests


def _median(values: list[float]) -> float:
    return float(np.median(values))


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="CPU a request, simulated engines, proxy and engines included")
    for column in ("load", "passthrough ms", "routed ms", "ratio", "without encoder", "added p50 ms", "requests/s"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for row in result["rows"]:
        a, b = row[PASSTHROUGH], row[ROUTED]
        table.add_row(
            f"{row['concurrency']} at a time{', streamed' if row['stream'] else ''}",
            f"{a['cpu_ms_per_request']:.2f}",
            f"{b['cpu_ms_per_request']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['cpu_ratio_without_encoder']:.2f}",
            f"{b['latency_ms_p50'] - a['latency_ms_p50']:+.1f}",
            f"{a['requests_per_s']:.0f} / {b['requests_per_s']:.0f}",
        )
    console.print(table)
