"""What an ingress is made of, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.serve.handle import DeploymentHandle

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.console.console import Console
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.door import Door
from apportion.deployments.ingress.lines import Lines
from apportion.deployments.ingress.metrics_page import MetricsPage
from apportion.deployments.ingress.naming import Naming
from apportion.deployments.ingress.prompts import Prompts
from apportion.deployments.ingress.router_state import RouterState
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.ingress.tracing.middleware import Traced
from apportion.deployments.keys.authenticator import Authenticator
from apportion.router.arrays import FloatArray

if TYPE_CHECKING:
    from apportion.deployments.ingress.bulk.desk import Desk


class Parts:
    """Each route uses some of them."""

    def __init__(
        self, config: ServiceConfig, router: DeploymentHandle, predictor: DeploymentHandle, mean_success: FloatArray
    ) -> None:
        self.config = config
        self.tracing = Traced.start(config)
        self.router = router
        self.lines = Lines(config, router, predictor, mean_success)
        self.state = RouterState(router.state.remote, config.models, predictor=self.lines.predictor_state)
        self.state.listen()
        self.console = Console(lambda: router.console.remote())
        self.metrics = MetricsPage(lambda: router.metrics.remote())
        self.naming = Naming(config.feedback, lambda: router.secret.remote())
        self.prompts = Prompts(config.records)
        self.rules = Rules.of(config, self.naming.new)
        self.desk = _desk_of(config, self.rules)
        self.authenticator = Authenticator(config)
        self.dispatcher = Dispatcher(
            self.lines.link, self.lines.forecaster.forecast, config.dispatch, config.timeouts, config.signals
        )
        self.door = Door(config.ingress, config.dispatch.request_timeout_s)

    async def close(self) -> None:
        self.state.close()
        self.naming.close()
        self.authenticator.close()
        if self.desk is not None:
            self.desk.close()
        await self.lines.close()
        await self.dispatcher.close()
        self.prompts.close()
        if self.tracing is not None:
            await self.tracing.close()


def _desk_of(config: ServiceConfig, rules: Rules) -> Desk | None:
    if config.bulk is None:
        return None
    # Here, not above: it loads a driver of databases.
    from apportion.deployments.ingress.bulk.desk import Desk

    return Desk(config, rules)
