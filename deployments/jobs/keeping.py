"""Keeps results as they come, in groups: what ends while one group is written is the next."""

from __future__ import annotations

import asyncio
import logging

from apportion.router.jobs.segments import Result, SegmentWriter, Totals

logger = logging.getLogger(__name__)

AGAIN_S = 1.0  # after a store that failed


class Keeper:
    """A job's results on their way to disk.

    Args:
        totals: of what was kept before; is added to.
    """

    def __init__(self, writer: SegmentWriter, totals: Totals) -> None:
        self._writer = writer
        self.totals = totals
        self._waiting: list[tuple[Result, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, result: Result) -> None:
        """Returns when the result is on disk; it comes there even if nobody waits for it."""
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((result, kept))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(kept)

    async def drain(self) -> None:
        """Returns when all is on disk."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def _write(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                await self._write_group([result for result, _ in group])
                for result, kept in group:
                    self.totals.add(result)
                    if not kept.done():
                        kept.set_result(None)
        finally:
            self._writing = None

    async def _write_group(self, results: list[Result]) -> None:
        while True:
            try:
                return await asyncio.to_thread(self._writer.write, results)
            except OSError as error:
                logger.error("%d results cannot be kept yet: %s", len(results), type(error).__name__)
                await asyncio.sleep(AGAIN_S)
