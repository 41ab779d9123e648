"""Whether a row that was not answered is sent again, and when."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from apportion.router.errors import (
    ApportionError,
    BudgetExceededError,
    BudgetExhaustedError,
    DeadlineError,
    LedgerError,
    OverloadedError,
    UnavailableError,
)

LONGEST_S = 60.0


class What(enum.Enum):
    """What becomes of the row."""

    ends = enum.auto()  # the error is its result
    again = enum.auto()  # something failed that it can do nothing for, and that costs it nothing
    failed = enum.auto()  # an attempt was made, of which it has only so many
    short = enum.auto()  # others have to settle before there is money
    unaffordable = enum.auto()  # on this model there will be no money for it


@dataclass(slots=True)
class Tries:
    """How often a row has come back.

    Args:
        attempts: at engines, or that failed within the service.
        refusals: before any engine had it, in a row.
        short: for want of money.
    """

    attempts: int = 0
    refusals: int = 0
    short: int = 0


def judged(error: ApportionError, *, attempted: bool, tries: Tries) -> What:
    """What an error means for a row.

    Args:
        attempted: an engine was asked.
        tries: of before; is counted on.
    """
    what = _judged(error, attempted, tries)
    if what is What.failed:
        tries.attempts, tries.refusals = tries.attempts + 1, 0
    elif what is What.again:
        tries.refusals += 1
    return what


def _judged(error: ApportionError, attempted: bool, tries: Tries) -> What:
    if isinstance(error, BudgetExhaustedError):
        return What.short
    if isinstance(error, BudgetExceededError):
        return What.unaffordable
    if isinstance(error, OverloadedError | LedgerError):
        return What.again
    # A row that engines were lost with may be why: it has only so many tries, however they end.
    if isinstance(error, UnavailableError | DeadlineError) and not (attempted or tries.attempts):
        return What.again
    return What.ends if error.status < 500 else What.failed


def pause_s(tries: Tries, error: ApportionError) -> float:
    """Until it is sent again: 1, 2, 4 ... 60 s, or as long as the error says."""
    count = min(max(tries.attempts + tries.refusals - 1, 0), 10)
    return max(min(2.0**count, LONGEST_S), min(error.retry_after_s or 0.0, LONGEST_S))
