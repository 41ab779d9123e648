"""Holds what the innocents got against what was promised; every function returns what is wrong, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.kills import Outage
from tests.hostile.attack import Attack, Excuse
from tests.hostile.innocents import Answer, p95_s
from tests.hostile.inputs import MARKER

LATE_RATIO = 2.0
WORST_NANO = 256 * 1_420  # of one innocent request: a whole context of the dearest model that it may have
QUIET_FLOOR_S = 0.4  # a quiet p95 below this is taken for this: the machine's own noise is of its size


@dataclass(frozen=True)
class Verdict:
    """One attack in numbers, a row of the table; seconds, and answers of innocents."""

    attack: str
    seen: dict[str, int]
    answers: int
    excused: int
    away_s: float | None
    quiet_p95_s: float
    p95_s: float
    complaints: list[str]
    tries: int = 1


def judge(attack: Attack, seen: dict[str, int], answers: Sequence[Answer], struck_s: float, quiet_s: float) -> Verdict:
    """The verdict over an attack's innocents.

    Args:
        answers: those that were asked for while it lasted.
        struck_s: when the damage was done; infinite: there was none.
        quiet_s: their 95th percentile without an attack.
    """
    excuse = attack.excuse
    complaints = [f"its author was told {end!r}" for end in seen if attack.ends and end not in attack.ends]
    excused = [a for a in answers if excuse is not None and _touches(a, struck_s, excuse)]
    for answer in answers:
        complaints += _wrong(answer, excuse if answer in excused else None)
    others = [answer for answer in answers if answer not in excused]
    late_s = p95_s(others)
    if others and late_s > LATE_RATIO * max(quiet_s, QUIET_FLOOR_S):
        complaints.append(f"p95 of {late_s:.2f} s against {quiet_s:.2f} s when all is quiet")
    marks = [a.ended_s for a in excused if _suffered(a, quiet_s)]
    away_s = round(max(marks) - struck_s, 1) if marks else None
    return Verdict(attack.name, seen, len(answers), len(excused), away_s, quiet_s, late_s, complaints)


def _touches(answer: Answer, struck_s: float, excuse: Excuse) -> bool:
    return answer.started_s <= struck_s + excuse.away_s and answer.ended_s >= struck_s


def _suffered(answer: Answer, quiet_s: float) -> bool:
    """Whether an excused request was any worse for it."""
    return answer.status != 200 or answer.rung != "mip" or answer.took_s > LATE_RATIO * max(quiet_s, QUIET_FLOOR_S)


def _wrong(answer: Answer, excuse: Excuse | None) -> list[str]:
    who = f"client {answer.client}, after {answer.took_s:.2f} s"
    if MARKER in answer.text or MARKER in answer.complaint:
        return [f"{who}: was shown another's request"]
    if answer.status != 200:
        lost = answer.status is None or answer.status in {500, 502, 503}  # HAProxy's own words where an ingress is gone
        return [] if excuse is not None and excuse.lost and lost else [f"{who}: {answer.status} {answer.complaint}"]
    if answer.rung != "mip" and not (excuse is not None and excuse.lower_rung):
        return [f"{who}: rung {answer.rung}"]
    return []


def owed_nano(answers: Sequence[Answer], struck_s: float) -> tuple[int, int]:
    """The least and the most that the answers may have cost, in nano-USD; alike where nothing was damaged.

    What was under way when a part was struck may have been begun twice, or have ended unheard.
    """
    told = sum(round(answer.told_usd * 1e9) for answer in answers if answer.told_usd is not None)
    outage = Outage("any", struck_s)
    struck = sum(outage.struck(answer.started_s, answer.ended_s) for answer in answers)
    return told, told + struck * WORST_NANO
