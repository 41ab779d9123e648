"""Measures all cases in turn, round after round, and compares them within their rounds."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from apportion.router.assignment import warm_up
from benchmarks.load.cpu import load_average
from benchmarks.load.numbers import median, ratio_range
from benchmarks.room.cases import AIMS, CASES, Aim, Case
from benchmarks.room.room import LoadedRoom, Measured
from benchmarks.stamp import stamp

Round = dict[str, Measured]


def run(requests: int, rounds: int, seed: int, console: Console) -> dict[str, Any]:
    """What a decided request takes of the Router's CPU in every case.

    Args:
        requests: that end in a case in a round, at least.
    """
    busy = load_average()
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_rounds(requests, rounds, seed, Path(folder), console))
    return {
        "stamp": stamp(requests=requests, rounds=rounds, seed=seed),
        "load_average": [busy, load_average()],
        "cases": [_row(case, [one[case.name] for one in found]) for case in CASES],
        "ratios": [_ratio(aim, found) for aim in AIMS],
    }


async def _rounds(requests: int, rounds: int, seed: int, folder: Path, console: Console) -> list[Round]:
    rooms = []
    for case in CASES:
        console.print(f"filling: {case.name}")
        rooms.append(LoadedRoom(case, folder, seed))
        await rooms[-1].fill()
    gc.collect()
    gc.freeze()  # else a case now and then looks for garbage in the rooms of all the others
    found = []
    for number in range(rounds):
        # Each round from another case on: what follows on what is not always the same.
        turns = [rooms[(number + place) % len(rooms)] for place in range(len(rooms))]
        found.append({room.case.name: await room.load(-(-requests // room.case.ending)) for room in turns})
        console.print(f"round {number + 1} of {rounds}")
    for room in rooms:
        await room.close()
    gc.unfreeze()
    return found


def _row(case: Case, rounds: Sequence[Measured]) -> dict[str, Any]:
    return {
        "case": case.name,
        "ending": case.ending,
        "decided": sum(one.decided for one in rounds),
        "decided_a_step": sum(one.decided for one in rounds) / sum(one.steps for one in rounds),
        "waiting": median([one.waiting for one in rounds]),
        "cpu_us_per_request": ratio_range([one.us_per_request for one in rounds]),
    }


def _ratio(aim: Aim, rounds: Sequence[Round]) -> dict[str, Any]:
    ratio = ratio_range([one[aim.case].us_per_request / one[aim.beside].us_per_request for one in rounds])
    met = aim.at_most is None or ratio["median"] <= aim.at_most
    return {"case": aim.case, "beside": aim.beside, "at_most": aim.at_most, "ratio": ratio, "met": met}
