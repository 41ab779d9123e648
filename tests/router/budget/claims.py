"""Claims on the ledger, and what is held of them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from apportion.router.budget import Account, Limit, Scope, Window
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.schema import reservations
from apportion.router.budget.standing import Claim

NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z, the start of a minute
LATER_S = NOW_S + 300
Open = Callable[..., BudgetLedger]
DAILY = Limit(Scope.service, Window.day, 1000)


def claim(name: str, nano: int, key: str | None = None, tenant: str | None = None, model: str = "m") -> Claim:
    return Claim(name, Account(key, tenant), model, nano)


def reserve(ledger: BudgetLedger, *claims: Claim, now_s: float = NOW_S, **options: object) -> list[bool]:
    shortages = ledger.reserve(claims, now_s=now_s, expires_s=now_s + 300, **options)
    return [shortage is None for shortage in shortages]


def balance(ledger: BudgetLedger) -> tuple[int, int]:
    total = ledger.statement(now_s=NOW_S).total()
    return total.spent_nano, total.reserved_nano


def held(ledger: BudgetLedger) -> dict[str, int]:
    """Reservations that are neither settled nor expired: nano-USD by id."""
    rows = select(reservations.c.id, reservations.c.amount_nano).where(reservations.c.charged.is_(False))
    with ledger._engine.connect() as connection:
        return {row.id: row.amount_nano for row in connection.execute(rows)}
