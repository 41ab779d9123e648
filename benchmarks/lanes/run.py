"""The experiment: the same interactive load without and with a bulk job, in turn; then a job alone."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import track

from apportion.deployments.cluster.launch import local_ray, required_cpus
from apportion.deployments.config.bulk import BulkConfig
from apportion.deployments.config.reader import read_config
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.config.simulated import SimulatedConfig
from benchmarks.load.arrivals import open_loop, poisson_arrivals_s
from benchmarks.load.chat import PATH, Answer, ask, chat_session, greedy_chat
from benchmarks.load.numbers import Target, medians, ratio_range, summary
from benchmarks.load.service import engine_urls, with_simulated_engines
from benchmarks.stamp import stamp
from benchmarks.zoo.tasks import generate

BASE = "http://127.0.0.1:8000"
READY_S, STARTS_S, TIMEOUT_S = 60.0, 60.0, 120.0
SLOTS, TOKENS, TOKEN_S, FIRST_TOKEN_S = 16, 48, 0.06, 0.1
SHARE = 0.4  # of the slots, that interactive requests take on average
LONG_JOB = 20_000  # more than any window lets through
MOST_WORSE = 1.10
LOADS = ("first_token_ms", "between_tokens_ms")


@dataclass(frozen=True)
class Size:
    """Seconds of a window, rounds of all windows, and rows of the job that runs alone."""

    window_s: float = 60.0
    rounds: int = 3
    rows: int = 5_000


def run(config: Path, size: Size, seed: int, console: Console) -> dict[str, Any]:
    """Measures a service with simulated engines (named so in the result); predictor and solver are real.

    Args:
        config: its models are simulated here.
    """
    started_s = time.monotonic()
    service = read_config(config).service
    with tempfile.TemporaryDirectory() as folder:
        slow = simulated(service, Path(folder) / "slow", TOKENS, FIRST_TOKEN_S, TOKEN_S)
        with _served(slow):
            beside = _measure(len(slow.models), size, seed, console)
        with _served(simulated(service, Path(folder) / "fast", 16, 0.0, 0.0)):
            alone = _alone(size.rows, seed)
    ratios = {
        load: ratio_range([b[load]["p95"] / a[load]["p95"] for a, b in zip(*beside.values(), strict=True)])
        for load in LOADS
    }
    settings = {"seed": seed, "window_s": size.window_s, "rounds": size.rounds, "engines": "simulated"}
    return {
        "stamp": stamp(**settings, work_s=round(time.monotonic() - started_s)),
        "loads": {name: medians(rounds) for name, rounds in beside.items()},
        "p95_ratios": ratios,
        "alone": alone,
        "targets": [
            {
                "target": f"p95 with a job over without, {load.removesuffix('_ms').replace('_', ' ')}",
                "at_most": MOST_WORSE,
                "measured": ratios[load]["median"],
                "met": ratios[load]["median"] <= MOST_WORSE,
            }
            for load in LOADS
        ],
    }


def simulated(config: ServiceConfig, folder: Path, tokens: int, first_token_s: float, token_s: float) -> ServiceConfig:
    """The same service with simulated engines, and files of its own."""
    answers = SimulatedConfig(tokens=tokens, first_token_s=first_token_s, token_s=token_s)
    played = with_simulated_engines(config, answers, slots=SLOTS)
    return played.model_copy(update={"bulk": BulkConfig(storage=str(folder))})


@contextmanager
def _served(config: ServiceConfig) -> Iterator[None]:
    with local_ray(required_cpus(config)):
        from ray import serve

        from apportion.deployments.app import build_application

        serve.start(http_options={"host": "127.0.0.1", "port": 8000})
        serve.run(build_application(config), name="apportion", route_prefix="/")
        engine_urls(BASE, READY_S)
        yield


def _measure(n_models: int, size: Size, seed: int, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Windows of one load, by turns without and with a job that would go on beyond its window."""
    rate_per_s = SHARE * n_models * SLOTS / (FIRST_TOKEN_S + TOKENS * TOKEN_S)
    count = max(round(rate_per_s * size.window_s), 10)
    prompts = [example.prompt for example in generate("test", 512, seed)]
    found: dict[str, list[dict[str, Any]]] = {"without a job": [], "with a job": []}
    asyncio.run(_interactive(prompts, count // 4, rate_per_s, seed))  # what is done once is done now
    for turn in track(range(size.rounds), "rounds", console=console):
        found["without a job"].append(asyncio.run(_interactive(prompts, count, rate_per_s, seed + turn)))
        job = _submit(prompts, LONG_JOB)
        before, began_s = _running(job), time.monotonic()
        beside = asyncio.run(_interactive(prompts, count, rate_per_s, seed + turn))
        rows = _completed(job) - before
        beside["rows_per_s"] = rows / (time.monotonic() - began_s)
        found["with a job"].append(beside)
        _cancel(job)
    return found


async def _interactive(prompts: list[str], count: int, rate_per_s: float, seed: int) -> dict[str, Any]:
    async with chat_session(TIMEOUT_S) as session:

        async def call(number: int) -> Answer:
            body = greedy_chat(prompts[(seed * 131 + number) % len(prompts)], "auto", TOKENS, stream=True)
            return await ask(session, BASE + PATH, body)

        answers, seconds = await open_loop(call, poisson_arrivals_s(count, rate_per_s, seed))
    return summary(answers, seconds, Target(1.0, 60.0)) | {"rows_per_s": 0.0}


def _submit(prompts: list[str], rows: int) -> str:
    """A job of so many rows; its id."""
    lines = "".join(
        json.dumps(
            {
                "custom_id": str(row),
                "method": "POST",
                "url": PATH,
                "body": greedy_chat(prompts[row % len(prompts)], "auto", TOKENS),
            }
        )
        + "\n"
        for row in range(rows)
    )
    with httpx.Client(base_url=BASE, timeout=TIMEOUT_S) as client:
        sent = client.post("/v1/files", files={"file": ("rows.jsonl", lines)}, data={"purpose": "batch"})
        sent.raise_for_status()
        asked = {"input_file_id": sent.json()["id"], "endpoint": PATH, "completion_window": "24h"}
        made = client.post("/v1/batches", json=asked)
        made.raise_for_status()
    return str(made.json()["id"])


def _batch(job: str) -> dict[str, Any]:
    answer = httpx.get(f"{BASE}/v1/batches/{job}", timeout=TIMEOUT_S)
    answer.raise_for_status()
    batch: dict[str, Any] = answer.json()
    return batch


def _completed(job: str) -> int:
    return int(_batch(job)["request_counts"]["completed"])


def _running(job: str) -> int:
    """Waits until rows of the job are answered; how many are.

    Raises:
        RuntimeError: it has failed, or none is answered in time.
    """
    deadline_s = time.monotonic() + STARTS_S
    while time.monotonic() < deadline_s:
        batch = _batch(job)
        if batch["status"] == "failed":
            raise RuntimeError(f"the job failed: {batch['errors']}")
        if (completed := int(batch["request_counts"]["completed"])) > 0:
            return completed
        time.sleep(0.5)
    raise RuntimeError(f"no row of the job was answered within {STARTS_S:g} s")


def _cancel(job: str) -> None:
    """Ends the job and waits until nothing of it runs."""
    httpx.post(f"{BASE}/v1/batches/{job}/cancel", timeout=TIMEOUT_S).raise_for_status()
    while _batch(job)["status"] == "cancelling":
        time.sleep(0.5)


def _alone(rows: int, seed: int) -> dict[str, Any]:
    """A job on engines that answer at once, with nothing beside it."""
    prompts = [example.prompt for example in generate("test", 512, seed)]
    began_s = time.monotonic()
    job = _submit(prompts, rows)
    while (batch := _batch(job))["status"] not in {"completed", "failed", "expired", "cancelled"}:
        time.sleep(0.25)
    counts = batch["request_counts"]
    return {
        "rows": rows,
        "completed": counts["completed"],
        "status": batch["status"],
        "seconds": time.monotonic() - began_s,
        "running_s": batch["finalizing_at"] - batch["in_progress_at"],
    }
