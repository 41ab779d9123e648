"""That a service has one router: Serve is asked for no more, and the newest has the ledger."""

from __future__ import annotations

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from apportion.router.errors import ConfigurationError


def service_name() -> str | None:
    """The service that this router is the only one of, as all routers of it call it; None outside of Serve.

    Raises:
        ConfigurationError: Serve is to run several routers.
    """
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return None
    check_sole(context.world_size)
    return f"{ray.get_runtime_context().get_session_name()}/{context.app_name}"


def check_sole(replicas: int | None) -> None:
    """Raises: ConfigurationError: Serve is to run several routers."""
    if replicas is not None and replicas > 1:
        raise ConfigurationError(
            f"the Router is to have {replicas} replicas, but slots and money have one owner; remove its num_replicas "
            "and autoscaling_config, and deploy again"
        )
