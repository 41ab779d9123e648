"""The states of a Router whose ceilings are measured, and what each is to reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A Router under all the load that it can take.

    Args:
        name: of the case.
        ingresses: that share the load.
        in_flight: requests that are being answered all the time.
        full: the queue is, and twice as many come as end; else all that waits is in the batch that is planned.
        accounts: that requests come from, each from the next one.
        ledger: there is a limit of the service.
        budgets: each account has a budget of its own beside.
        capped: a batch may spend so much a request, which not all can have.
        places: of the queue.
    """

    name: str
    ingresses: int = 4
    in_flight: int = 1_024
    full: bool = False
    accounts: int = 50
    ledger: bool = False
    budgets: bool = False
    capped: bool = False
    places: int = 4_096


@dataclass(frozen=True)
class Aim:
    """A core makes at least `limit` decisions a second, or each takes at most `limit` times the CPU of one `beside`."""

    case: str
    limit: float
    beside: str | None = None


IDLE = "empty queue"
CASES = (
    Case(IDLE),
    Case("empty queue, cap", capped=True),
    Case("full queue", full=True),
    Case("full queue, cap", full=True, capped=True),
    Case("1 ingress", ingresses=1),
    Case("10 ingresses", ingresses=10),
    Case("50 ingresses", ingresses=50),
    Case("10,000 in flight", in_flight=10_000),
    Case("ledger", ledger=True),
    Case("ledger, 200 key budgets", accounts=200, ledger=True, budgets=True),
    Case("ledger, 2,000 keys without budgets", accounts=2_000, ledger=True),
    Case("ledger, 2,000 key budgets", accounts=2_000, ledger=True, budgets=True),
    Case("ledger, 10,000 key budgets", accounts=10_000, ledger=True, budgets=True),
)
AIMS = (
    Aim(IDLE, 10_000),
    Aim("full queue", 5_000),
    Aim("full queue, cap", 5_000),
    Aim("ledger, 2,000 key budgets", 1.2, beside="ledger, 2,000 keys without budgets"),
    Aim("ledger, 2,000 key budgets", 1.2, beside="ledger"),
)
