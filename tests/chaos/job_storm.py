"""A storm over a batch: parts are killed while it runs, and what is left afterwards is looked at."""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from rich.console import Console

from apportion.deployments.cluster.launch import running_service
from apportion.router.budget import to_nano
from apportion.router.prices import ModelPrice
from tests.chaos.kills import Killer, Outage
from tests.deployments.processes import replicas

CHAT = "/v1/chat/completions"
TIMEOUT_S = 30.0  # of a row; by a minute later its reservation has expired
MAX_TOKENS = 16
DIFFERENT = 50  # prompts, over and over
LOOK_S = 0.25


@dataclass(frozen=True)
class JobSize:
    """How large a storm is; `token_s` of engines that are played, slow enough for every kill to find rows left."""

    rows: int
    kills: tuple[str, ...]
    budget_usd: float
    calm: bool = False  # wait until all that was cut off is charged
    token_s: float = 0.02


SLICE = JobSize(600, ("Jobs", "Router", "Engine-wren", "Predictor"), 1.0, token_s=0.3)
FULL = JobSize(
    20_000,
    ("Jobs", "Router", "Engine-wren", "Predictor", "Jobs", "Engine-heron", "Router", "Jobs", "Engine-lark", "Router"),
    100.0,
    calm=True,
)


@dataclass
class JobStorm:
    """All that is known afterwards; `resumed_s` from the kill of a runner to the next row that is done."""

    size: JobSize
    batch: dict[str, Any]
    output: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    outages: list[Outage]
    seconds: float
    prices: dict[str, ModelPrice]
    spent_nano: int
    reserved_nano: int
    resumed_s: list[float] = field(default_factory=list)
    jobs_mb: float = 0.0


def run_job_storm(document: dict[str, Any], folder: Path, size: JobSize, *, played: bool) -> JobStorm:
    """Args: played: engines are simulated, which are back sooner."""
    document = stormy(document, folder, size.token_s if played else None)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    with running_service(path, console=Console(quiet=True)) as url:
        killer, started_s = Killer(url), time.monotonic()
        batch = submit(url, size)
        storm = JobStorm(size, batch, [], [], killer.outages, 0.0, prices_of(document), 0, 0)
        asyncio.run(_weather(url, batch["id"], size, killer, storm))
        storm.seconds = time.monotonic() - started_s
        storm.batch = _batch(url, batch["id"])
        storm.output, storm.errors = (_lines(url, storm.batch[name]) for name in ("output_file_id", "error_file_id"))
        deadline_s = time.monotonic() + (TIMEOUT_S + 90 if size.calm else 0)
        while True:
            storm.spent_nano, storm.reserved_nano = _ledger(folder / "ledger.db", batch["id"])
            if not storm.reserved_nano or time.monotonic() > deadline_s:
                return storm
            time.sleep(1.0)


def stormy(document: dict[str, Any], folder: Path, token_s: float | None) -> dict[str, Any]:
    document = copy.deepcopy(document)
    args = document["applications"][0]["args"]
    for model in args["models"]:
        model["max_num_seqs"] = 32
        if token_s is not None:
            for name in ("engine_args", "capabilities"):
                model.pop(name, None)
            model |= {"engine": "simulated", "simulated": {"first_token_s": 0.02, "token_s": token_s, "tokens": 8}}
    args["dispatch"] = {**args.get("dispatch", {}), "request_timeout_s": TIMEOUT_S}
    args["budget"] = {"database": f"sqlite:///{folder / 'ledger.db'}"}
    args["bulk"] = {"storage": str(folder / "bulk"), "attempts": 20}
    return document


def prices_of(document: dict[str, Any]) -> dict[str, ModelPrice]:
    models = document["applications"][0]["args"]["models"]
    return {m["name"]: ModelPrice(m["input_usd_per_million"], m["output_usd_per_million"]) for m in models}


def rows(count: int) -> list[dict[str, Any]]:
    """Of few different prompts, for a model by name or for any."""
    names = ("auto", "auto", "auto", "wren", "heron")
    return [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": names[number % DIFFERENT % len(names)],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
                "messages": [{"role": "user", "content": f"What is {number % DIFFERENT} plus 3?"}],
            },
        }
        for number in range(count)
    ]


def submit(url: str, size: JobSize) -> dict[str, Any]:
    text = "".join(json.dumps(row) + "\n" for row in rows(size.rows))
    form = {"file": ("rows.jsonl", text.encode())}
    file = httpx.post(f"{url}/v1/files", files=form, data={"purpose": "batch"}, timeout=60).raise_for_status().json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "2h"}
    asked = body | {"routing": {"budget_usd": size.budget_usd}}
    batch: dict[str, Any] = httpx.post(f"{url}/v1/batches", json=asked, timeout=60).raise_for_status().json()
    return batch


async def _weather(url: str, batch_id: str, size: JobSize, killer: Killer, storm: JobStorm) -> None:
    """Kills one part after the other, at equal shares of the rows, until the batch has ended."""
    kills = list(enumerate(size.kills, start=1))
    under_way: list[asyncio.Task[None]] = []
    while True:
        batch = await asyncio.to_thread(_batch, url, batch_id)
        done = batch["request_counts"]["completed"] if batch else 0
        storm.jobs_mb = max([storm.jobs_mb, *await asyncio.to_thread(_memory_mb)])
        if batch and batch["status"] in {"completed", "failed", "expired", "cancelled"}:
            await asyncio.gather(*under_way)
            return
        if kills and done >= size.rows * kills[0][0] / (len(size.kills) + 1) and all(one.done() for one in under_way):
            _, part = kills.pop(0)
            under_way.append(asyncio.create_task(killer.kill(part)))
            if part == "Jobs":
                under_way.append(asyncio.create_task(_resumes(url, batch_id, storm)))
        await asyncio.sleep(LOOK_S)


async def _resumes(url: str, batch_id: str, storm: JobStorm) -> None:
    began_s = time.monotonic()
    before = (await asyncio.to_thread(_batch, url, batch_id))["request_counts"]["completed"]
    while True:
        batch = await asyncio.to_thread(_batch, url, batch_id)
        if batch and (batch["request_counts"]["completed"] > before or batch["status"] == "completed"):
            storm.resumed_s.append(round(time.monotonic() - began_s, 1))
            return
        await asyncio.sleep(LOOK_S)


def _batch(url: str, batch_id: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = httpx.get(f"{url}/v1/batches/{batch_id}", timeout=10).raise_for_status().json()
    except httpx.HTTPError:
        return {}
    return found


def _lines(url: str, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    text = httpx.get(f"{url}/v1/files/{file_id}/content", timeout=60).raise_for_status().text
    return [json.loads(line) for line in text.splitlines()]


def _memory_mb() -> list[float]:
    found = []
    for process in replicas("Jobs"):
        try:
            found.append(process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            continue
    return found


def _ledger(path: Path, job: str) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as database:
        row = database.execute(
            "SELECT spent_nano, reserved_nano FROM apportion_counters WHERE scope = 'job' AND name = ?", [job]
        ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def told_nano(storm: JobStorm) -> int:
    """What the answers have cost by their usage."""
    total = 0
    for line in storm.output:
        body = line["response"]["body"]
        usage, price = body["usage"], storm.prices[body["model"]]
        total += to_nano(price.cost_usd(usage["prompt_tokens"], usage["completion_tokens"]))
    return total
