"""What runs of jobs know of the Router: it is told every second how they stand, and says what they may have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from apportion.deployments.wire.bulk import BulkState, JobTold, RunnerReport
from apportion.deployments.wire.calls import answer_of

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
TIMEOUT_S = 10.0

Ask = Callable[[RunnerReport], Awaitable[BulkState]]


class RouterDesk:
    """Asks the Router as long as it is open.

    Args:
        ask: the Router's `bulk`.
        name: of this runner.

    Attributes:
        state: as the Router said last; None: it has not answered yet.
        jobs: by id, who says how a job stands, and how much haste it has.
    """

    def __init__(self, ask: Ask, name: str) -> None:
        self._ask = ask
        self._name = name
        self.state: BulkState | None = None
        self.jobs: dict[str, Callable[[], tuple[JobTold, float]]] = {}
        self._heard = asyncio.Event()
        self._asking = asyncio.create_task(self._ask_for_ever())

    def close(self) -> None:
        self._asking.cancel()

    async def known(self) -> BulkState:
        """The Router's state, as soon as it has said it."""
        while self.state is None:
            await self.next()
        return self.state

    async def next(self) -> None:
        """Returns when the Router has answered again."""
        await self._heard.wait()

    def slots(self, model: str) -> int:
        """That bulk can have of a model; none while nobody knows."""
        return 0 if self.state is None else self.state.slots.get(model, 0)

    async def _ask_for_ever(self) -> None:
        while True:
            told = [told() for told in self.jobs.values()]
            report = RunnerReport(
                self._name, tuple(job for job, _ in told), max((haste for _, haste in told), default=0)
            )
            try:
                self.state = await answer_of(self._ask(report), TIMEOUT_S)
            except Exception as error:
                logger.info("the router does not say what bulk may have: %s", type(error).__name__)
            else:
                self._heard.set()
                self._heard = asyncio.Event()
            await asyncio.sleep(PERIOD_S)
