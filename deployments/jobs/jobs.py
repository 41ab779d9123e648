"""Jobs: the deployment that runs bulk jobs; several share them."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from functools import partial

from ray import serve
from ray.serve.handle import DeploymentHandle

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.forecasting import ordinary_calls
from apportion.deployments.ingress.lines import Lines
from apportion.deployments.ingress.naming import Naming
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.jobs.callers import JobCallers
from apportion.deployments.jobs.desk import RouterDesk
from apportion.deployments.jobs.expectations import Forecasting
from apportion.deployments.jobs.rows import Forecasts
from apportion.deployments.jobs.run import Workshop
from apportion.deployments.jobs.runner import Runner
from apportion.deployments.wire.garbage import spare_what_is_loaded
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.arrays import FloatArray
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import ServedModel
from apportion.router.batch.prompt import Prompt
from apportion.router.cascade.pair import Pair
from apportion.router.jobs.blobs import open_blobs
from apportion.router.jobs.store import JobStore
from apportion.router.unpriced import Unpriced

logger = logging.getLogger(__name__)


class HeadlessIngress:
    """Asks predictor and Router as an ingress does, for rows of jobs.

    Args:
        by_name_only: models that get no row that does not name them.
        pairs: that are proved to gain by asking one model after the other.
    """

    def __init__(
        self,
        config: ServiceConfig,
        router: DeploymentHandle,
        predictor: DeploymentHandle,
        mean_success: FloatArray,
        by_name_only: frozenset[str],
        pairs: tuple[Pair, ...],
    ) -> None:
        if config.bulk is None:
            raise ValueError("jobs need a `bulk` section")
        name = uuid.uuid4().hex
        self._config = config
        self._policy = config.routing.policy(config.models, by_name_only).for_bulk(config.bulk.price_factor)
        self._lines = Lines(
            config, router, predictor, mean_success, name=name, bulk_calls=ordinary_calls(config.predictor)
        )
        self._naming = Naming(config.feedback, lambda: router.secret.remote())
        self._forecasts = Forecasts()
        self._dispatcher = Dispatcher(self._lines.link, self._known, config.dispatch, config.timeouts, config.signals)
        self._callers = JobCallers(config)
        self._desk = RouterDesk(lambda report: router.bulk.remote(report), name)
        blobs = open_blobs(config.bulk.place)
        self._store = JobStore(config.bulk.database_url(config.budget))
        shop = Workshop(
            config,
            self._store,
            blobs,
            self._dispatcher,
            Forecasting(
                partial(self._lines.forecaster.forecast, planned_only=True), self._is_predictable, self._models
            ),
            self._forecasts,
            Rules.of(config, self._naming.new),
            self._callers,
            self._desk,
            self._naming.ready,
            pairs,
        )
        self.runner = Runner(shop, name)

    async def close(self) -> None:
        """Lets other runners have the jobs, and tells the Router the last ends."""
        await self.runner.close()
        self._desk.close()
        self._naming.close()
        self._callers.close()
        await self._lines.close()
        await self._dispatcher.close()
        self._store.close()

    async def _known(self, item: RouteItem, _: Prompt) -> Unpriced:
        """What its job's plan went by; nobody is asked again."""
        return self._forecasts.of(item.id)

    def _is_predictable(self, prompt: Prompt) -> bool:
        return prompt.chars <= self._config.predictor.max_call_chars

    def _models(self) -> tuple[ServedModel, ...]:
        state = self._desk.state
        if state is None:
            return self._policy.models
        return tuple(
            replace(model, price=price) for model, price in zip(self._policy.models, state.prices, strict=True)
        )


@serve.deployment
class Jobs:
    """One replica of what runs bulk jobs."""

    def __init__(
        self,
        config: ServiceConfig,
        router: DeploymentHandle,
        predictor: DeploymentHandle,
        mean_success: FloatArray,
        by_name_only: frozenset[str],
        pairs: tuple[Pair, ...],
    ) -> None:
        log_to_serve()
        self._ingress = HeadlessIngress(config, router, predictor, mean_success, by_name_only, pairs)
        spare_what_is_loaded()

    def check_health(self) -> None:
        """Raises: whatever keeps jobs from being run."""
        self._ingress.runner.check_health()

    async def __del__(self) -> None:
        await self._ingress.close()
