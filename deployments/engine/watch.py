"""Finds an engine that has something to do and does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from apportion.deployments.engine.meter import Meter
from apportion.router.errors import UnavailableError


class StallWatch:
    """Asks an engine that has been silent for `stall_s` for one token, and waits as long again for any sign of it.

    Any sign counts, not only that token: behind long prompts it may have to wait.

    Args:
        probe: asks the engine for one token.
        stall_s: longer than the longest single step of the engine; None: never.
    """

    def __init__(self, meter: Meter, probe: Callable[[], Awaitable[None]], stall_s: float | None) -> None:
        self._meter = meter
        self._probe = probe
        self._stall_s = stall_s
        self._asking: asyncio.Future[None] | None = None

    def check(self) -> None:
        """To be called about once a second.

        Raises:
            UnavailableError: the engine is stuck.
        """
        silent_s = self._meter.silent_s()
        if self._stall_s is None or silent_s < self._stall_s:
            self.stop()
        elif silent_s >= 2 * self._stall_s:
            raise UnavailableError(
                f"the engine has requests and has done nothing for {silent_s:.0f} s, even when asked"
            )
        elif self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())

    def stop(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self) -> None:
        await asyncio.gather(self._probe(), return_exceptions=True)  # only its signs count
