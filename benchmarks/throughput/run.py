"""The experiment: loads through the router and, in turn with them, straight to the engines that it chose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from apportion.deployments.cluster.launch import running_service
from apportion.deployments.config.reader import read_config
from apportion.deployments.config.service import ServiceConfig
from benchmarks.load.numbers import Target, medians, ratio_range
from benchmarks.load.service import Place, engine_places
from benchmarks.stamp import stamp
from benchmarks.throughput import vllm_bench
from benchmarks.throughput.case import LONG, SHORT, Case, closed_cases
from benchmarks.throughput.round import direct, routed
from benchmarks.zoo.tasks import Example, generate

READY_S = 60.0
OPEN_SHARES = (0.4, 0.7)  # of the short answers' highest closed-loop rate
OPEN_SECONDS = 12.0
LEAST_RATIO = 0.95


def run(
    config: Path, rounds: int, scale: float, target: Target, seed: int, with_vllm: bool, console: Console
) -> dict[str, Any]:
    """Starts the service and measures it.

    Args:
        rounds: of every closed loop; each is the routed load, then the same requests straight to the engines.
        scale: of the numbers of requests.
        target: what counts for goodput.
        with_vllm: `vllm bench serve` runs on the streamed loads too.
    """
    started_s = time.monotonic()
    service = read_config(config).service
    examples = generate("test", 512, seed)
    with running_service(config, console=console) as url:
        engines = engine_places(url, service.models, READY_S)
        _warm_up(url, engines, examples, target)
        closed = _measure(closed_cases(scale), url, engines, examples, target, rounds, seed, console)
        fastest = max(row["routed"]["requests_per_s"] for row in closed if row["answers"] == SHORT)
        arrivals = [_open_case(fastest * share, scale) for share in OPEN_SHARES]
        opened = _measure(arrivals, url, engines, examples, target, 1, seed, console)
        checked = _check(arrivals[:1], closed, url, service, examples, target, seed) if with_vllm else []
    settings = {
        "seed": seed,
        "rounds": rounds,
        "scale": scale,
        "first_token_target_s": target.first_token_s,
        "latency_target_s": target.latency_s,
    }
    return {
        "stamp": stamp(**settings, work_s=round(time.monotonic() - started_s)),
        "closed": closed,
        "open": opened,
        "vllm_bench_serve": checked,
        "targets": targets(closed),
    }


def targets(closed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Routed over direct, where long answers make the engines the bottleneck."""
    return [
        {
            "target": f"routed over direct, requests/s, {row['load']}",
            "at_least": LEAST_RATIO,
            "measured": row["ratio"]["median"],
            "met": row["ratio"]["median"] >= LEAST_RATIO,
        }
        for row in closed
        if row["answers"] == LONG
    ]


def _warm_up(url: str, engines: dict[str, Place], examples: Sequence[Example], target: Target) -> None:
    for stream in (False, True):
        case = Case(SHORT, stream, 96, concurrency=32)
        _, mix = routed(case, url, examples, target, 0)
        direct(case, engines, mix, examples, target, 0)


def _measure(
    cases: Sequence[Case],
    url: str,
    engines: dict[str, Place],
    examples: Sequence[Example],
    target: Target,
    rounds: int,
    seed: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Each case's rounds lie apart, with those of the others in between."""
    found: dict[Case, list[tuple[dict[str, Any], dict[str, Any]]]] = {case: [] for case in cases}
    for turn in track(range(rounds), "rounds", console=console):
        # Other questions each time: engines remember the beginnings of those that they have seen.
        first = turn * 131 % len(examples)
        asked = [*examples[first:], *examples[:first]]
        for case in cases:
            through, mix = routed(case, url, asked, target, seed + turn)
            straight = direct(case, engines, mix, asked, target, seed + turn)
            found[case].append((through, straight))
    return [_row(case, pairs) for case, pairs in found.items()]


def _row(case: Case, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    ratios = [through["requests_per_s"] / straight["requests_per_s"] for through, straight in pairs]
    return {
        "load": case.name,
        "answers": case.answers,
        "stream": case.stream,
        "concurrency": case.concurrency,
        "rate_per_s": case.rate_per_s,
        "routed": medians([through for through, _ in pairs]),
        "direct": medians([straight for _, straight in pairs]),
        "ratio": ratio_range(ratios) | {"rounds": ratios},
    }


def _open_case(rate_per_s: float, scale: float) -> Case:
    return Case(SHORT, True, max(round(rate_per_s * OPEN_SECONDS * scale), 20), rate_per_s=rate_per_s)


def _check(
    opened: Sequence[Case],
    closed: Sequence[dict[str, Any]],
    url: str,
    service: ServiceConfig,
    examples: Sequence[Example],
    target: Target,
    seed: int,
) -> list[dict[str, Any]]:
    cases = [
        Case(SHORT, True, max(4 * row["concurrency"], 40), concurrency=row["concurrency"])
        for row in closed
        if row["stream"] and row["answers"] == SHORT
    ]
    tokenizer = service.models[-1].resolved_source
    return vllm_bench.measure([*cases, *opened], url, tokenizer, examples, target, seed)
