"""The Router's metrics: what its events have counted, and the numbers of the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.observability.batch_log import BatchLog
from apportion.deployments.observability.gauges import put_state
from apportion.deployments.observability.numbers import Numbers
from apportion.deployments.observability.recorder import Recorder
from apportion.router.batch.events import Events

if TYPE_CHECKING:
    from apportion.deployments.observability.ray_bridge import RayBridge


class Metrics:
    """Counts from the beginning of the process, and tells.

    Args:
        events: of the batch room.
    """

    def __init__(self, config: ServiceConfig, events: Events) -> None:
        self._bridge: RayBridge | None = None
        if config.metrics.bridge:
            from apportion.deployments.observability.ray_bridge import RayBridge

            self._bridge = RayBridge()
        self.numbers = Numbers(on_observed=None if self._bridge is None else self._bridge.observed)
        events.subscribe(Recorder(self.numbers, config.names))
        events.subscribe(BatchLog(config.metrics.log_batches))

    def text(self, state: Mapping[str, Any]) -> bytes:
        """As Prometheus reads it.

        Args:
            state: the router's.
        """
        put_state(self.numbers, state)
        return self.numbers.text()

    @property
    def bridged(self) -> bool:
        """Whether Ray is to be told."""
        return self._bridge is not None

    def tell_ray(self, state: Mapping[str, Any]) -> None:
        """What has changed, where that is configured."""
        if self._bridge is not None:
            put_state(self.numbers, state)
            self._bridge.tell(self.numbers)
