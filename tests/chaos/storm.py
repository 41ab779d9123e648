"""The storm: starts the service, sends the plan, kills parts, waits for calm, stops it, and looks at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console

from apportion.deployments.cluster.launch import running_service
from apportion.router.prices import ModelPrice
from tests.chaos.client import Outcome, run_plan
from tests.chaos.kills import HEALTH_TIMEOUT_S, Killer, Outage
from tests.chaos.ledger import LedgerState, tenant
from tests.chaos.plan import MIX, POOR, Kind, Plan, make_plan
from tests.deployments.processes import descendants, memory_mb
from tests.deployments.service import health, holds_nothing

CONCURRENCY = 48
TIMEOUT_S = 45.0  # of a request that asks for none; on two busy cores a router takes half of it to be back
CALM_S = TIMEOUT_S + 60 + 30  # by then the reservations of those who were lost have expired
TWO_WAYS = "lark"
SLOTS, MAX_QUEUE = 16, 64  # of each model, and in line: a burst needs more than both
WARM_UP, WARM_UP_BURST = 700, 450  # the largest batches too, so that what they need is not taken for a leak


@dataclass(frozen=True)
class Size:
    """How large a storm is."""

    requests: int
    bursts: int
    burst_size: int
    kills: tuple[str, ...]


SLICE = Size(1_200, 1, 450, ("Predictor", "Solver", "Router", "Ingress", "Engine-heron"))
FULL = Size(
    10_000,
    4,
    700,
    (
        "Predictor",
        "Solver",
        "Router",
        "Ingress",
        "Engine-heron",
        "Router",
        "Engine-wren",
        "Engine-finch",
        "Ingress",
        "Engine-lark",
    ),
)


@dataclass(frozen=True)
class Storm:
    """All that is known afterwards; `memory_mb` and `state` before and after, `left` the processes that outlived it.

    `peaks` are each engine replica's model and the most answers that it has had at once.
    """

    plan: Plan
    outcomes: list[Outcome]
    outages: list[Outage]
    seconds: float
    prices: dict[str, ModelPrice]
    state: dict[str, Any]
    memory_mb: tuple[Counter[str], Counter[str]]
    ledger: LedgerState
    poor_usd: float
    left: list[str]
    peaks: dict[str, tuple[str, int]]

    def of(self, kind: Kind) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.shot.kind is kind]


def run_storm(document: dict[str, Any], folder: Path, size: Size, seed: int) -> Storm:
    """A storm over the application of a `serve_config.yaml`, with a ledger in `folder`."""
    plan = make_plan(size.requests, seed, bursts=size.bursts, burst_size=size.burst_size, kills=size.kills)
    # Less than what the poor would spend on the cheapest model, but more than one worst case.
    poor = (size.requests - size.bursts * size.burst_size) * MIX[Kind.poor] / 100
    poor_usd = max(1e-4, poor * 4e-6)
    document = stormy(document, folder / "ledger.db", poor_usd)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    with running_service(path, console=Console(quiet=True)) as url:
        calm = make_plan(WARM_UP, seed + 1, bursts=1, burst_size=WARM_UP_BURST, kills=())
        asyncio.run(_send(calm, url, Killer(url), "calm"))
        before = memory_mb()
        killer = Killer(url)
        started_s = time.monotonic()
        outcomes = asyncio.run(_send(plan, url, killer, "shot"))
        seconds = time.monotonic() - started_s
        state = wait_for_calm(url)
        after = memory_mb()
        processes = [*descendants(), *killer.seen]
    models = document["applications"][0]["args"]["models"]
    return Storm(
        plan,
        outcomes,
        killer.outages,
        seconds,
        {m["name"]: ModelPrice(m["input_usd_per_million"], m["output_usd_per_million"]) for m in models},
        state,
        (before, after),
        LedgerState.read(folder / "ledger.db"),
        poor_usd,
        still_there(processes),
        killer.peaks,
    )


def stormy(document: dict[str, Any], database: Path, poor_usd: float) -> dict[str, Any]:
    """The same application with two ingresses, fewer slots, a shorter queue and deadline, and a poor tenant.

    One model is asked in two ways, which share its slots.
    """
    document = copy.deepcopy(document)
    args = document["applications"][0]["args"]
    for model in args["models"]:
        model["max_num_seqs"] = SLOTS
        if model["name"] == TWO_WAYS:
            model["variants"] = [
                {"name": "whole", "prior_success": 0.8},
                {"name": "brief", "prior_success": 0.5, "max_tokens": 16},
            ]
    args["ingress"] = {**args.get("ingress", {}), "num_replicas": 2}
    args["batching"] = {**args.get("batching", {}), "max_queue": MAX_QUEUE}
    args["dispatch"] = {**args.get("dispatch", {}), "request_timeout_s": TIMEOUT_S}
    args["anonymous"] = {"tenant_header": True, "max_priority": 3}
    args["budget"] = {
        "database": f"sqlite:///{database}",
        "limits": [
            {"scope": "tenant", "window": "total", "usd": 1000.0},
            {"scope": "tenant", "window": "total", "usd": poor_usd, "name": POOR},
        ],
    }
    return document


async def _send(plan: Plan, url: str, killer: Killer, prefix: str) -> list[Outcome]:
    watching = asyncio.create_task(killer.watch_peaks())
    try:
        return await run_plan(
            plan,
            url,
            concurrency=CONCURRENCY,
            timeout_s=TIMEOUT_S,
            headers_of=lambda shot: {"x-router-tenant": tenant(shot) if prefix == "shot" else prefix},
            kill=killer.kill,
        )
    finally:
        watching.cancel()


def wait_for_calm(url: str) -> dict[str, Any]:
    """The service's state once nothing is in flight, waiting or reserved; its last one if that does not come."""
    deadline_s = time.monotonic() + CALM_S
    while time.monotonic() < deadline_s:
        state = health(url, HEALTH_TIMEOUT_S)
        if is_calm(state):
            return state
        time.sleep(1.0)
    return state


def is_calm(state: dict[str, Any]) -> bool:
    """Whether every model has slots, all are free, and nothing is reserved by the router or in its ledger."""
    return (
        holds_nothing(state)
        and state["budget"].get("reserved_usd") == 0
        and all(model["slots"] > 0 for model in state["models"].values())
    )


def still_there(processes: list[psutil.Process]) -> list[str]:
    """Those that run on although the service has stopped."""
    _, alive = psutil.wait_procs(processes, timeout=15)
    words = []
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                words.append(" ".join(process.cmdline()) or process.name())
    return words
