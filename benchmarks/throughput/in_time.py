"""The experiment: requests that end within a target, by real engines with few slots, with and without routing by time.

One service; every arm gets the same questions, lengths and arrivals, round by round, in an order that turns around with
each round. What differs is what a request says (`routing.max_seconds`) or the live policy (`latency_weight_per_s`, and
the money a request brings).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from apportion.deployments.cluster.launch import running_service
from benchmarks.e2e.policy import read_document, set_policy
from benchmarks.load.arrivals import closed_loop
from benchmarks.load.chat import PATH, Answer, ask, chat_session
from benchmarks.load.service import engine_urls
from benchmarks.stamp import stamp
from benchmarks.throughput.window import TIMEOUT_S, Load, Window, calibration
from benchmarks.zoo.tasks import Example, generate

READY_S = 60.0
SLOTS = 16  # of every engine
SHARES = (0.5, 0.8, 1.0)  # of what all engines answer with their slots taken
CAP_SHARE = 0.6  # of what a request costs without a limit
WEIGHT_PER_S = 0.1
FLOOD_REQUESTS = 240  # of the closed loop that measures capacity, after as many that warm up
FREE, PLAIN, BOUND, WEIGHED = "by success, any money", "by success", "max_seconds", f"weight {WEIGHT_PER_S:g}"


@dataclass(frozen=True)
class Arm:
    """max_seconds: whether requests say the target."""

    name: str
    capped: bool
    max_seconds: bool = False
    weight_per_s: float = 0.0


ARMS = (
    Arm(FREE, capped=False),
    Arm(PLAIN, capped=True),
    Arm(BOUND, capped=True, max_seconds=True),
    Arm(WEIGHED, capped=True, weight_per_s=WEIGHT_PER_S),
)


def run(config: Path, rounds: int, window_s: float, percentile: float, seed: int, console: Console) -> dict[str, Any]:
    """Starts the service with few slots and measures it.

    Args:
        rounds: of all arms at all loads; their order is turned around in every other one.
        window_s: in which requests arrive; a window ends with its last answer.
        percentile: of the seconds of routing by success, measured beforehand, that is the target at each load.
    """
    started_s = time.monotonic()
    examples = generate("test", 1024, seed)
    document = few_slots(read_document(config))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / config.name
        file.write_text(yaml.safe_dump(document))
        with running_service(file, console=console) as url:
            engine_urls(url, READY_S)
            found = _measured(document, url, examples, rounds, window_s, percentile, seed, console)
    settings = {"seed": seed, "rounds": rounds, "window_s": window_s, "target_percentile": percentile}
    settings |= {"slots": SLOTS, "cap_share": CAP_SHARE}
    return {"stamp": stamp(**settings, work_s=round(time.monotonic() - started_s)), **found}


def few_slots(document: dict[str, Any]) -> dict[str, Any]:
    """The configuration with `SLOTS` for each engine, so that requests wait and engines fill."""
    for model in document["applications"][0]["args"]["models"]:
        model["max_num_seqs"] = SLOTS
    return document


def _measured(
    document: dict[str, Any],
    url: str,
    examples: Sequence[Example],
    rounds: int,
    window_s: float,
    percentile: float,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    _set(document, url, None)
    capacity_per_s, usual_usd = _flooded(url, examples, seed)
    rates_per_s, cap_usd = {share: share * capacity_per_s for share in SHARES}, CAP_SHARE * usual_usd
    _set(document, url, cap_usd)
    pilot = {s: Window.measure(url, Load.draw(examples, r, window_s, seed + 999), None) for s, r in rates_per_s.items()}
    targets_s = {share: float(np.percentile(one.seconds, percentile)) for share, one in pilot.items()}
    records, windows = [], []
    for turn in track(range(rounds), "rounds", console=console):
        loads = {s: Load.draw(examples, r, window_s, seed + turn) for s, r in rates_per_s.items()}
        for arm in ARMS if turn % 2 == 0 else ARMS[::-1]:
            _set(document, url, cap_usd if arm.capped else None, arm.weight_per_s)
            for share in SHARES if turn % 2 == 0 else SHARES[::-1]:
                window = Window.measure(url, loads[share], targets_s[share] if arm.max_seconds else None)
                windows.append((share, arm.name, window))
                records.append({"load": share, "arm": arm.name, "seed": turn, **window.numbers(targets_s[share])})
    return {
        "capacity_per_s": capacity_per_s,
        "cap_usd_per_request": cap_usd,
        "targets_s": {f"{share:g}": target_s for share, target_s in targets_s.items()},
        "records": records,
        "calibration": [
            {"load": share, "arm": arm.name, **calibration([w for s, a, w in windows if (s, a) == (share, arm.name)])}
            for share in SHARES
            for arm in ARMS
        ],
    }


def _set(document: dict[str, Any], url: str, cap_usd: float | None, weight_per_s: float = 0.0) -> None:
    set_policy(document, url, {"budget_usd_per_request": cap_usd, "latency_weight_per_s": weight_per_s})


def _flooded(url: str, examples: Sequence[Example], seed: int) -> tuple[float, float]:
    """Requests a second with every slot taken and some waiting, and USD a request; speeds are learned before."""
    load = Load.draw(examples, FLOOD_REQUESTS, 1.0, seed + 1_999)

    async def flood() -> tuple[list[Answer], float]:
        async with chat_session(TIMEOUT_S) as session:

            async def call(number: int) -> Answer:
                return await ask(session, url + PATH, load.body(number, None))

            return await closed_loop(call, len(load.tokens), 5 * SLOTS)

    asyncio.run(flood())
    answers, seconds = asyncio.run(flood())
    return len(answers) / seconds, float(np.mean([answer.cost_usd or 0.0 for answer in answers]))
