"""What becomes of a job: its states, what may follow what, and the time stamps that they set."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from apportion.router.errors import InvalidRequestError


class Status(StrEnum):
    """OpenAI's names."""

    validating = "validating"
    failed = "failed"
    in_progress = "in_progress"
    finalizing = "finalizing"
    completed = "completed"
    expired = "expired"
    cancelling = "cancelling"
    cancelled = "cancelled"


Stamp = Literal[
    "created_at",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
]
STAMPS: Mapping[Status, Stamp] = {
    Status.validating: "created_at",
    Status.in_progress: "in_progress_at",
    Status.finalizing: "finalizing_at",
    Status.completed: "completed_at",
    Status.failed: "failed_at",
    Status.expired: "expired_at",
    Status.cancelling: "cancelling_at",
    Status.cancelled: "cancelled_at",
}
_ENDS = (Status.failed, Status.expired)
FOLLOWS: Mapping[Status, frozenset[Status]] = {
    Status.validating: frozenset({Status.in_progress, Status.cancelling, *_ENDS}),
    Status.in_progress: frozenset({Status.finalizing, Status.cancelling, *_ENDS}),
    Status.finalizing: frozenset({Status.completed, *_ENDS}),
    Status.cancelling: frozenset({Status.cancelled, Status.failed}),
    Status.completed: frozenset(),
    Status.failed: frozenset(),
    Status.expired: frozenset(),
    Status.cancelled: frozenset(),
}
TERMINAL = frozenset(status for status, follow in FOLLOWS.items() if not follow)


def check_move(now: Status, then: Status) -> None:
    """Whether one state may follow another; none follows a terminal one.

    Raises:
        InvalidRequestError: it may not.
    """
    if then not in FOLLOWS[now]:
        raise InvalidRequestError(f"the batch is {now}, and cannot become {then}; leave it as it is")
