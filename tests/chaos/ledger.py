"""What the durable ledger holds after the storm, request by request: each of them was a tenant of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.client import Outcome
from tests.chaos.kills import Outage
from tests.chaos.plan import POOR, Kind, Shot

NANO = 1e9
# The most that one sequence can cost: a full context on the dearest model, in nano-USD.
DEAREST_NANO = round(256 * 1.82e3)
UNTOLD_S = 0.5  # an ingress tells the router of endings within tens of milliseconds, on a crowded machine later


@dataclass(frozen=True)
class LedgerState:
    """Nano-USD: of the whole service, and of each tenant; `held` are reservations that nobody has settled."""

    spent_nano: int
    reserved_nano: int
    spent_by_tenant: dict[str, int]
    held: int

    @classmethod
    def read(cls, path: Path) -> LedgerState:
        with closing(sqlite3.connect(path)) as database:
            total = (
                "SELECT spent_nano, reserved_nano FROM apportion_counters WHERE scope = 'service' AND span = 'total'"
            )
            spent, reserved = database.execute(total).fetchone()
            tenants = "SELECT name, spent_nano FROM apportion_counters WHERE scope = 'tenant' AND span = 'total'"
            held = database.execute("SELECT count(*) FROM apportion_reservations WHERE charged = 0").fetchone()[0]
            return cls(spent, reserved, dict(database.execute(tenants)), held)


def tenant(shot: Shot) -> str:
    return POOR if shot.kind is Kind.poor else f"shot-{shot.index}"


def paid(outcomes: Sequence[Outcome], outages: Sequence[Outage], ledger: LedgerState) -> list[str]:
    """Each request paid what it was told; one that was given up or lost, at most its worst case for each attempt."""
    wrong = []
    for outcome in outcomes:
        if outcome.shot.kind is Kind.poor:
            continue  # they share one counter
        spent = ledger.spent_by_tenant.get(tenant(outcome.shot), 0)
        least, most = due(outcome, outages)
        if not least <= spent <= most:
            wrong.append(
                f"request {outcome.shot.index} ({outcome.shot.kind}), status {outcome.status}: paid {spent} nano-USD, "
                f"should have paid {least}" + (f" to {most}" if most > least else "")
            )
    return wrong


def due(outcome: Outcome, outages: Sequence[Outage]) -> tuple[int, int]:
    """The least and the most that a request may have cost, in nano-USD; alike where nothing went wrong."""
    told = None if outcome.left or outcome.broken else outcome.settled_usd
    nano = 0 if told is None else round(float(told) * NANO)
    broke_off = outcome.streamed and outcome.error is not None
    attempts = 1 if outcome.left or outcome.broken or outcome.status == 504 or broke_off else 0
    if any(outage.struck(outcome.started_s, outcome.ended_s) for outage in outages):
        attempts += 2  # each of them may have been charged before the request was sent elsewhere
    elif any(o.part == "Ingress" and o.touches(outcome.started_s, outcome.ended_s + UNTOLD_S) for o in outages):
        attempts += 1  # answered, but its ingress died before the router heard of it
    return nano, nano + attempts * DEAREST_NANO * sequences(outcome.shot)


def sequences(shot: Shot) -> int:
    prompts = shot.body.get("prompt", "") if isinstance(shot.body, dict) else ""
    return len(prompts) if isinstance(prompts, list) else 1
