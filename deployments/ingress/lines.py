"""The lines of an ingress to the predictor and to the router."""

from __future__ import annotations

import asyncio
from contextvars import Context

from ray.serve.handle import DeploymentHandle

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.forecasting import forecaster_of, learn_token_chars
from apportion.deployments.ingress.link import RouterLink
from apportion.deployments.wire.channel import Channel
from apportion.router.arrays import FloatArray
from apportion.router.batch.forecasting.forecaster import CallLimits
from apportion.router.batch.guards.breaker import BreakerState


class Lines:
    """Opened when the first request goes over them.

    Args:
        mean_success: (M,), what is left to go by without the predictor.
        name: of the ingress, as the router calls it; None: one of its own.
        bulk_calls: what the predictor gets at once of what is only planned; None: little, since others wait.
    """

    def __init__(
        self,
        config: ServiceConfig,
        router: DeploymentHandle,
        predictor: DeploymentHandle,
        mean_success: FloatArray,
        *,
        name: str | None = None,
        bulk_calls: CallLimits | None = None,
    ) -> None:
        self._predictor = Channel(predictor.address.remote, "the predictor", config.predictor.num_replicas)
        self._router = Channel(router.address.remote, "the router")
        self.forecaster = forecaster_of(config, self._predictor.call, mean_success, bulk_calls)
        learning = learn_token_chars(self.forecaster, config, predictor)
        self._learning = asyncio.create_task(learning, context=Context())
        self.link = RouterLink(self._router.call, self.predictor_state, name)

    def predictor_state(self) -> BreakerState:
        """Whether this ingress asks the predictor."""
        return self.forecaster.state

    async def close(self) -> None:
        """Tells the router the last ends."""
        self._learning.cancel()
        self.forecaster.close()
        self._predictor.close()
        await self.link.close()
        self._router.close()
