"""Plans what is never run: as a batch of its own, in no request's way and behind breakers of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from apportion.router.batch.forecasting.correction import corrected
from apportion.router.batch.forecasting.timing import timed
from apportion.router.batch.messages import Refusal, RouteItem, Verdict
from apportion.router.batch.planning.planner import BatchPlanner
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.availability import Availability
from apportion.router.drift.lengths import Lengths
from apportion.router.drift.speeds import Speeds
from apportion.router.errors import ApportionError, DeadlineError, OverloadedError
from apportion.router.unpriced import Unpriced

MOST_WAITING = 16


class Preview:
    """Plans one list of requests after the other.

    Args:
        planner: asks the solver for short answers only.
        lengths: how long answers are of what was expected.
        speeds: how long models take for them.
        timeout_s: for a list, waiting included.
    """

    def __init__(self, planner: BatchPlanner, lengths: Lengths, speeds: Speeds, timeout_s: float) -> None:
        self._planner = planner
        self._lengths = lengths
        self._speeds = speeds
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def plan(
        self, items: Sequence[RouteItem], forecast: Unpriced, policy: Policy, available: Availability
    ) -> list[Verdict]:
        """What would be decided for the items as one batch; takes nothing.

        Args:
            forecast: of the items.
            available: what there is for them.

        Raises:
            OverloadedError: too many lists wait already.
            DeadlineError: requests that are to be run left no time for it.
        """
        if self._waiting >= MOST_WAITING:
            raise OverloadedError(f"{self._waiting} lists wait to be planned already; try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s) as deadline, self._turn:
                estimates = corrected(forecast.priced(policy.prices), items, policy, self._lengths)
                estimates = timed(estimates, forecast, items, self._lengths, self._speeds, available.running)
                plan = await self._planner.plan(items, estimates, available, policy, explain=True)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineError(
                f"no plan within {self._timeout_s:g} s, since requests that are run go first; send fewer, or later"
            ) from None
        finally:
            self._waiting -= 1
        waiting = ApportionError("more requests than slots: this one would wait for the next batch")
        return [plan.verdicts.get(item.id) or Refusal(item.id, waiting) for item in items]
