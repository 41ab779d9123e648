"""How long whole-job plans take, and their memory: each in a process of its own, whose peak is the plan's."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paths import ROOT

SIZES = ((100_000, 4), (100_000, 16), (1_000_000, 4), (1_000_000, 16))
SMALL = ((2_000, 4),)
KINDS = ("budget", "budget and deadline", "too little money", "too little time")
SEARCHED = 100_000  # rows up to which files that lack something are measured too


def plan_times(smoke: bool) -> list[dict[str, Any]]:
    """A record for each size and kind of limits."""
    import json

    records = []
    for rows, models in SMALL if smoke else SIZES:
        for kind in KINDS[1:3] if smoke else KINDS if rows <= SEARCHED else KINDS[:2]:
            arguments = [sys.executable, "-m", "benchmarks.bulk.plan_time", str(rows), str(models), kind]
            done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
            records.append(json.loads(done.stdout.splitlines()[-1]))
    return records


def measure(rows: int, models: int, kind: str) -> dict[str, Any]:
    """One plan: seconds, what it proves, and MB that it added to what the arrays took."""
    from apportion.router.assignment import warm_up
    from apportion.router.jobs.planning.plan import JobPlan, plan_job
    from apportion.router.jobs.planning.workload import Means

    warm_up()
    workload = made(rows, models)
    cheapest, dearest = workload.cost_usd.min(axis=1).sum(), workload.cost_usd.max(axis=1).sum()
    speed = np.full(models, 1000.0)
    even_s = float(workload.lengths().sum()) / models / speed.sum()
    usd = cheapest * 0.9 if kind == "too little money" else cheapest + 0.2 * (dearest - cheapest)
    seconds = {"budget": math.inf, "too little time": 0.8 * even_s}.get(kind, 1.5 * even_s)
    before = _peak_mb()
    started = time.perf_counter()
    found = plan_job(workload, Means(float(usd), seconds, speed))
    wall_s = time.perf_counter() - started
    said: dict[str, Any] = {"planned": isinstance(found, JobPlan)}
    if isinstance(found, JobPlan):
        said |= {"gap": found.gap, "status": found.status.value}
    else:
        amount = found.usd if found.usd is not None else found.seconds
        said |= {"gap": None if amount is None else amount.least / amount.bound - 1, "status": found.missing}
    arrays_mb = sum(array.nbytes for array in (workload.success, workload.cost_usd)) / 1e6
    named = {"rows": rows, "models": models, "limits": kind}
    return named | {"wall_s": wall_s, "arrays_mb": arrays_mb, "peak_mb": _peak_mb(), "before_mb": before, **said}


def made(rows: int, models: int) -> Any:
    """Rows whose difficulty varies, models that are better the dearer they are."""
    from apportion.router.jobs.planning.workload import Workload

    rng = np.random.default_rng(0)
    quality, difficulty = np.sort(rng.uniform(0.3, 0.8, models)), rng.beta(2, 2, (rows, 1))
    success = np.clip(quality - 0.6 * (difficulty - 0.5) + rng.normal(0, 0.08, (rows, models)), 0.01, 0.99)
    tokens = np.ceil(rng.lognormal(5, 0.8, rows))
    return Workload(success, tokens[:, None] * np.geomspace(1, 20, models) * 1e-7, tokens)


def _peak_mb() -> float:
    """Of this process alone: `getrusage` counts what its parent had when it was started."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1e3
    return math.nan


if __name__ == "__main__":
    import json

    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
