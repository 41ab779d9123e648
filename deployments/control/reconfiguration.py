"""What of the Router changes while it runs: the policy of its batches, limits on money and on what is in flight."""

from __future__ import annotations

import logging
from typing import Any

from apportion.deployments.config.service import ServiceConfig, live_policy
from apportion.deployments.control.assembly import BatchRoom
from apportion.router.errors import ConfigurationError

logger = logging.getLogger(__name__)


class Reconfiguration:
    """Hands a `user_config` to the batch room.

    limits: of the budget, as they are at the moment; concurrency_limits: of what is in flight, likewise.
    cascade: whether cascades are offered, where any pair is proved.
    error: what is wrong with the last `user_config`; None: nothing.
    """

    def __init__(self, config: ServiceConfig, room: BatchRoom) -> None:
        self._config = config
        self._room = room
        self.limits = () if config.budget is None else config.budget.limits
        self.concurrency_limits = config.routing.concurrency_limits
        self.cascade = config.routing.cascade
        self.error: str | None = None

    def apply(self, user_config: dict[str, Any]) -> None:
        """A new policy for the batches to come; what it leaves out is as the configuration has it.

        Where a field is wrong the old policy stays and `error` says why: Serve would stop a router that raises here.
        """
        try:
            live = live_policy(user_config, self._config)
        except ConfigurationError as error:
            logger.error("the policy stays as it was: %s", error.message)
            self.error = error.message
            return
        self.error = None
        budget = self._config.budget
        if budget is not None:
            self.limits = budget.limits if live.limits is None else live.limits
            self._room.reservations.spending.set_limits(limit.limit() for limit in self.limits)
        self.cascade, self.concurrency_limits = live.cascade, live.concurrency_limits
        self._room.scheduler.policy = self._room.policy(live)
        self._room.limit(live)
        self._room.scheduler.wake()  # what a limit held back may have room now
