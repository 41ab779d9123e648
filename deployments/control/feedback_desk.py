"""The Router's side of records and feedback: what it keeps, and the secret that answers are named with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.assembly import BatchRoom
from apportion.deployments.control.callers import Callers
from apportion.deployments.wire.feedback import Feedback
from apportion.router.budget import Account
from apportion.router.errors import UnavailableError

if TYPE_CHECKING:
    from apportion.deployments.control.recording import Recording


class FeedbackDesk:
    """Takes what callers say of answers, where records are kept.

    Args:
        router: the Router's incarnation.
    """

    def __init__(self, config: ServiceConfig, router: str, room: BatchRoom, callers: Callers) -> None:
        self._callers = callers
        self._drift = room.drift
        self._recording: Recording | None = None
        if config.records is not None:
            # Here, not above: it takes the time and memory that pyarrow does.
            from apportion.deployments.control.recording import Recording

            self._recording = Recording(config.records, router, room.events)

    async def secret(self) -> bytes:
        """What ingresses name answers with, so that their callers can say what they think of them.

        Raises:
            UnavailableError: there are no records, or they cannot be reached.
        """
        return await self._records().secret()

    def take(self, account: Account, said: Feedback) -> None:
        """Keeps what a caller says of one of its answers.

        Raises:
            RateLimitError: it says too much.
            UnavailableError: it cannot be kept.
        """
        self._callers.admit_feedback(account)
        self._records().feedback(said)
        self._drift.feedback(said)

    def records_state(self) -> dict[str, Any] | None:
        """How the records do; None: there are none."""
        return None if self._recording is None else self._recording.state()

    def close(self) -> None:
        """Writes what waits."""
        if self._recording is not None:
            self._recording.close()

    def _records(self) -> Recording:
        if self._recording is None:
            raise UnavailableError("this router keeps no records; a deploy is changing that")
        return self._recording
