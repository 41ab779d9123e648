"""The states of a Router that are compared, and which of them each is compared with."""

from __future__ import annotations

from dataclasses import dataclass

QUEUE = 4_096  # places
STEP = 8  # requests that end together while the pace is moderate
BATCH = 256  # a whole batch: the Router's work is cheapest when so many end together


@dataclass(frozen=True)
class Case:
    """A state of the batch room, and the load in it.

    `slots` in all; `waiting` requests stand in the queue all the time, and where these are QUEUE, twice as many come as
    end. `ending` requests end together, again and again. `keys`: API keys with a budget of their own, each request of
    the next one; None: there is no ledger. `capped`: a batch may spend so much a request, which not all can have.
    """

    name: str
    ending: int
    slots: int = 1_024
    waiting: int = 0
    capped: bool = False
    keys: int | None = None


@dataclass(frozen=True)
class Aim:
    """A case's CPU may be at most so many times another's; None: it is only told."""

    case: str
    beside: str
    at_most: float | None = None


CASES = (
    Case("idle queue", STEP),
    Case("3,000 waiting, 64 slots", STEP, slots=64, waiting=3_000),
    Case("3,000 waiting, 1,024 slots, cap", STEP, waiting=3_000, capped=True),
    Case("full queue, cap", STEP, waiting=QUEUE, capped=True),
    Case("idle queue, cap", STEP, capped=True),
    Case("ledger, no key budgets", STEP, keys=0),
    Case("ledger, 2,000 key budgets", STEP, keys=2_000),
    Case("ledger, 10,000 key budgets", STEP, keys=10_000),
    Case("idle queue, whole batches", BATCH),
    Case("3,000 waiting, 1,024 slots, cap, whole batches", BATCH, waiting=3_000, capped=True),
    Case("full queue, cap, whole batches", BATCH, waiting=QUEUE, capped=True),
    Case("ledger, no key budgets, whole batches", BATCH, keys=0),
    Case("ledger, 2,000 key budgets, whole batches", BATCH, keys=2_000),
    Case("ledger, 10,000 key budgets, whole batches", BATCH, keys=10_000),
)
_OVERLOADED = CASES[1:4]

AIMS = (
    *(Aim(case.name, "idle queue", 3.0) for case in _OVERLOADED),
    Aim("ledger, 2,000 key budgets", "ledger, no key budgets", 1.2),
    Aim("ledger, 10,000 key budgets", "ledger, no key budgets", 1.5),
    Aim("3,000 waiting, 1,024 slots, cap, whole batches", "idle queue, whole batches", 3.0),
    Aim("full queue, cap, whole batches", "idle queue, whole batches", 3.0),
    Aim("ledger, 2,000 key budgets, whole batches", "ledger, no key budgets, whole batches", 1.2),
    Aim("ledger, 10,000 key budgets, whole batches", "ledger, no key budgets, whole batches", 1.5),
    *(Aim(case.name, "idle queue, cap") for case in _OVERLOADED[1:]),
    *(Aim(case.name, "idle queue, whole batches") for case in (CASES[0], *_OVERLOADED)),
)
