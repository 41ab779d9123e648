"""Tells ingresses that their endings are in the ledger, after the fact: no commit sits in a verdict's latency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from apportion.deployments.control.session import IngressSession


class Confirmations:
    """Waits for the ledger behind the replies, for all reports at once that have come meanwhile.

    Args:
        flush: returns whether all endings of before are in the ledger. Where they are not, nothing is confirmed, and
            the ingress tells them again.
    """

    def __init__(self, flush: Callable[[], Awaitable[bool]]) -> None:
        self._flush = flush
        self._due: list[tuple[IngressSession, int]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, session: IngressSession, number: int) -> None:
        """The endings of the session's report of that number were handed to the ledger."""
        self._due.append((session, number))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._confirm())

    async def _confirm(self) -> None:
        while self._due:
            due, self._due = self._due, []
            if await self._flush():
                for session, number in due:
                    session.settled.append(number)
