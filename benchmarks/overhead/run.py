"""The experiment: the same load along every way, round by round in turn; then the router's ceiling by ingresses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from apportion.deployments.cluster.launch import local_ray, required_cpus
from apportion.deployments.config.metrics import MetricsConfig
from apportion.deployments.config.reader import read_config
from apportion.deployments.config.records import RecordsConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.config.tracing import TracingConfig
from benchmarks.load.numbers import medians
from benchmarks.load.service import Place, engine_places, engine_urls, with_simulated_engines
from benchmarks.overhead.arm import WATCHED_PREFIX, Arm, service_arms
from benchmarks.overhead.proxies import running_proxies
from benchmarks.overhead.ratios import added_ms, cpu_ratios, targets
from benchmarks.overhead.round import run_round
from benchmarks.overhead.watching import records_and_spans
from benchmarks.stamp import stamp

BASE = "http://127.0.0.1:8000"
CONCURRENCY = (1, 16, 64)
OUTSIDE_CONCURRENCY = (1, 16)
CEILING_CONCURRENCY = 64
READY_S = 60
# Requests of a round beside the service's own: ways that cost next to nothing need more for the clock's 10 ms ticks,
# and one that is slow keeps the others waiting.
SHARES = {"engine": 4.0, "switchyard": 2.0, "vllm-router": 4.0, "litellm": 0.5}
Rounds = dict[tuple[str, int, bool], list[dict[str, Any]]]


def run(
    config: Path, requests: int, rounds: int, ingresses: Sequence[int], with_proxies: bool, console: Console
) -> dict[str, Any]:
    """Measures latency and CPU a request at 1, 16 and 64 concurrent, streaming and not.

    Args:
        config: its models are simulated here (named so in the result); predictor and solver are real.
        ingresses: numbers of ingress replicas for the ceiling; none: it is left out.
        with_proxies: other people's proxies run beside.
    """
    started_s = time.monotonic()
    service = simulated(read_config(config).service)
    most = required_cpus(with_ingresses(service, max(ingresses, default=1)))
    proxies: Any = running_proxies() if with_proxies else contextlib.nullcontext(([], {}))
    with local_ray(2 * most + 2), proxies as (outside, skipped), records_and_spans() as (folder, collector):
        for name, reason in skipped.items():
            console.print(f"{name} is left out: {reason}")
        arms = _deploy(service, recorded(service, folder, collector))
        measured = _measure(arms, outside, requests, rounds, console)
        ceiling = [_ceiling(service, number, requests, rounds, console) for number in ingresses]
    settings = {"requests": requests, "rounds": rounds, "engines": "simulated, 16 tokens"}
    return {
        "stamp": stamp(**settings, work_s=round(time.monotonic() - started_s)),
        "rows": [
            {"arm": arm, "concurrency": concurrency, "stream": stream, **medians(found)}
            for (arm, concurrency, stream), found in measured.items()
        ],
        "cpu_ratios": cpu_ratios(measured),
        "added_ms": added_ms(measured),
        "ceiling": ceiling,
        "targets": targets(measured),
        "skipped": skipped,
    }


def simulated(config: ServiceConfig) -> ServiceConfig:
    """The same service with engines that answer at once."""
    return with_simulated_engines(config, SimulatedConfig(), slots=256)


def with_ingresses(config: ServiceConfig, number: int) -> ServiceConfig:
    return config.model_copy(update={"ingress": config.ingress.model_copy(update={"num_replicas": number})})


def recorded(config: ServiceConfig, folder: Path, collector: str) -> ServiceConfig:
    """The same service with all on that tells of it: records, traces, a log line a batch, and Ray's own metrics."""
    return config.model_copy(
        update={
            "records": RecordsConfig(uri=str(folder)),
            "tracing": TracingConfig(endpoint=collector),
            "metrics": MetricsConfig(bridge=True, log_batches="info"),
        }
    )


def _deploy(config: ServiceConfig, watched: ServiceConfig) -> list[Arm]:
    from ray import serve

    from apportion.deployments.app import build_application
    from benchmarks.overhead.passthrough import build_passthrough

    serve.start(http_options={"host": "127.0.0.1", "port": 8000})
    serve.run(build_passthrough(config.models[0]), name="passthrough", route_prefix="/passthrough")
    serve.run(build_application(watched), name="watched", route_prefix=WATCHED_PREFIX)
    serve.run(build_application(config), name="apportion", route_prefix="/")
    engine_urls(BASE + WATCHED_PREFIX, READY_S)
    model = config.models[0].name
    return service_arms(BASE, engine_places(BASE, config.models, READY_S)[model], model, config.names)


def _measure(arms: list[Arm], outside: list[Arm], requests: int, rounds: int, console: Console) -> Rounds:
    cases = [(concurrency, stream) for stream in (False, True) for concurrency in CONCURRENCY]
    for arm in track([*arms, *outside], "warm-up", console=console):
        for stream in (False, True):
            run_round(arm, requests=64, concurrency=16, stream=stream)
    found: Rounds = {}
    for turn in track(range(rounds), "rounds", console=console):
        for concurrency, stream in cases:
            ways = [*arms, *outside] if concurrency in OUTSIDE_CONCURRENCY else arms
            # Each round begins with another way, so that none is always the first.
            for arm in [*ways[turn % len(ways) :], *ways[: turn % len(ways)]]:
                count = max(requests // 4, 50) if concurrency == 1 else requests
                count = max(round(count * SHARES.get(arm.name, 1.0)), 2 * concurrency)
                measured = run_round(arm, requests=count, concurrency=concurrency, stream=stream)
                found.setdefault((arm.name, concurrency, stream), []).append(measured)
    return dict(sorted(found.items(), key=lambda item: (item[0][2], item[0][1])))


def _ceiling(service: ServiceConfig, number: int, requests: int, rounds: int, console: Console) -> dict[str, Any]:
    """Requests a second that `auto` carries with so many ingresses."""
    from ray import serve

    from apportion.deployments.app import build_application

    console.print(f"{number} ingress replicas")
    serve.run(build_application(with_ingresses(service, number)), name="apportion", route_prefix="/")
    engine_urls(BASE, READY_S)
    *_, auto, _, _ = service_arms(BASE, Place(""), "", service.names)
    run_round(auto, requests=256, concurrency=CEILING_CONCURRENCY, stream=False)
    result: dict[str, Any] = {"ingress_replicas": number}
    for stream in (False, True):
        found = [
            run_round(auto, requests=requests, concurrency=CEILING_CONCURRENCY, stream=stream)
            for _ in range(max(rounds - 1, 1))
        ]
        result["streamed" if stream else "whole"] = medians(found)
    return result
