"""Measures every case in turn, round after round, each in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from apportion.router.assignment import warm_up
from benchmarks.ceiling.cases import AIMS, CASES, Aim, Case
from benchmarks.ceiling.load import Measured, measured
from benchmarks.load.cpu import load_average
from benchmarks.load.numbers import median, ratio_range
from benchmarks.stamp import stamp

Round = dict[str, Measured]


def run(requests: int, rounds: int, seed: int, console: Console) -> dict[str, Any]:
    """What a decision takes of the Router's CPU in every case, and how many a core can make.

    Args:
        requests: that are decided in a case in a round.
    """
    busy = load_average()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.ceiling.load"])
    found: list[Round] = []
    for number in range(rounds):
        # Each round from another case on: a machine that gets busier disturbs all of them alike.
        turns = [CASES[(number + place) % len(CASES)] for place in range(len(CASES))]
        with context.Pool(1, maxtasksperchild=1) as pool:
            found.append({case.name: pool.apply(alone, (case, requests, seed + number)) for case in turns})
        console.print(f"round {number + 1} of {rounds}")
    return {
        "stamp": stamp(requests=requests, rounds=rounds, seed=seed),
        "load_average": [busy, load_average()],
        "cases": [_row(case, [one[case.name] for one in found]) for case in CASES],
        "aims": [_aim(aim, found) for aim in AIMS],
    }


def alone(case: Case, requests: int, seed: int) -> Measured:
    """A case in this process, where nothing else has been."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(measured(case, Path(folder), seed, requests))


def _row(case: Case, rounds: Sequence[Measured]) -> dict[str, Any]:
    cpu_us = ratio_range([one.us_per_decision for one in rounds])
    return {
        "case": case.name,
        "ingresses": case.ingresses,
        "cpu_us_per_decision": cpu_us,
        "decisions_per_s": 1e6 / cpu_us["median"],
        "decided_an_exchange": sum(one.decided for one in rounds) / sum(one.exchanges for one in rounds),
        "refused_a_decision": sum(one.refused for one in rounds) / sum(one.decided for one in rounds),
        "waiting": median([one.waiting for one in rounds]),
        "in_flight": median([one.in_flight for one in rounds]),
        "memory_mib": median([one.memory_mib for one in rounds]),
    }


def _aim(aim: Aim, rounds: Sequence[Round]) -> dict[str, Any]:
    """Rates are of the median round; ratios are of the same round each."""
    of_round = [one[aim.case].us_per_decision for one in rounds]
    if aim.beside is None:
        found = ratio_range([1e6 / us for us in of_round])
    else:
        found = ratio_range([us / one[aim.beside].us_per_decision for us, one in zip(of_round, rounds, strict=True)])
    met = found["median"] >= aim.limit if aim.beside is None else found["median"] <= aim.limit
    return {"case": aim.case, "beside": aim.beside, "limit": aim.limit, "found": found, "met": met}
