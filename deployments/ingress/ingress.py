"""The Ingress: OpenAI's HTTP API; stateless, as many replicas as the traffic needs.

A request is read, forecast by the predictor and planned by the router; then bytes are piped between the client and the
engine's own port.
"""

from __future__ import annotations

from ray import serve
from ray.serve.handle import DeploymentHandle

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.application import application
from apportion.deployments.ingress.door import MAX_REQUESTS
from apportion.deployments.ingress.parts import Parts
from apportion.deployments.ingress.routes.answers import AnswerRoutes, answer_api
from apportion.deployments.ingress.routes.bulk import BulkRoutes, bulk_api
from apportion.deployments.ingress.routes.models import ModelRoutes, model_api
from apportion.deployments.ingress.routes.plans import PlanRoutes, plan_api
from apportion.deployments.ingress.routes.watching import WatchRoutes, watch_api
from apportion.deployments.wire.cors import Cors
from apportion.deployments.wire.garbage import spare_what_is_loaded
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.arrays import FloatArray

api = application(bulk_api, answer_api, model_api, plan_api, watch_api)


# More than the door lets in: Serve's own refusal is no envelope.
@serve.deployment(max_ongoing_requests=2 * MAX_REQUESTS)
@serve.ingress(api)
class Ingress(AnswerRoutes, ModelRoutes, PlanRoutes, WatchRoutes, BulkRoutes):
    """One replica of the HTTP front."""

    def __init__(
        self,
        config: ServiceConfig,
        router: DeploymentHandle,
        predictor: DeploymentHandle,
        mean_success: FloatArray,
        jobs: DeploymentHandle | None = None,
    ) -> None:
        log_to_serve()
        if config.ingress.cors is not None:
            Cors.allow(config.ingress.cors.allow_origins, config.ingress.cors.max_age_s)
        self._jobs = jobs  # held so that Serve deploys it; it finds its work by itself
        self._parts = Parts(config, router, predictor, mean_success)
        spare_what_is_loaded()

    async def __del__(self) -> None:
        await self._parts.close()
