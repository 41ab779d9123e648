"""From configuration to application: `import_path: deployments.app:build` in `serve_config.yaml`."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve

from apportion.deployments.cluster.autoscaling import autoscaling_options
from apportion.deployments.cluster.fitting import check_deploy
from apportion.deployments.cluster.ledger_home import check_ledger_home
from apportion.deployments.cluster.nodes import live_nodes
from apportion.deployments.cluster.pinning import deployment_options, gpu_environment, in_order, pin
from apportion.deployments.config.bulk import BulkConfig
from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.models import ONE_GROUP, ModelConfig
from apportion.deployments.config.replica_groups import ReplicaGroup
from apportion.deployments.config.service import LivePredictor, ServiceConfig, parse_config
from apportion.deployments.control.predictor import Predictor
from apportion.deployments.control.router import Router
from apportion.deployments.control.solver import Solver
from apportion.deployments.control.watch import CHECK_PERIOD_S, CHECK_TIMEOUT_S
from apportion.deployments.engine.replica import Engine, EnginePlace
from apportion.deployments.engine.settings import environment, with_defaults
from apportion.deployments.ingress.ingress import Ingress
from apportion.deployments.jobs.jobs import Jobs
from apportion.deployments.wire.listening import ANY_PORT

# Every size of batch has kernels and buffers of its own: kept for a thousand sizes they take half a gigabyte.
PREDICTOR_ENV = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "OMP_WAIT_POLICY": "PASSIVE",  # else threads spin for each other where another process has one's core
}
PARTING_S = 10.0  # after the longest request; then a replica that stops is ended
# Three checks in a row decide. A replica that hangs is known after some 20 s, one that says it is broken after six;
# one that is merely busy has to answer once in 15 s.
CHECKED = {"health_check_period_s": 2, "health_check_timeout_s": 5}
QUIET = {"enable_access_log": False}


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a configuration.

    Args:
        args: the fields of `ServiceConfig`.

    Raises:
        ConfigurationError: names every wrong field and what it should be.
    """
    return build_application(parse_config(args))


def build_application(config: ServiceConfig) -> serve.Application:
    """Ingress -> Predictor; Ingress -> Router -> Solver; and an Engine deployment a model and replica group.

    Raises:
        ConfigurationError: the Ray cluster that this process is connected to cannot run all that was planned.
        ArtefactError: the predictor knows none of the models.
    """
    knowledge = Knowledge.of(config)  # an artefact that does not fit is refused before anything starts
    if ray.is_initialized():
        check_ledger_home(config, live_nodes())
        check_deploy(config, live_nodes())
    predictor = Predictor.options(  # type: ignore[attr-defined]
        health_check_period_s=CHECK_PERIOD_S,
        health_check_timeout_s=CHECK_TIMEOUT_S,
        ray_actor_options={
            "num_gpus": config.predictor.num_gpus,
            "num_cpus": config.predictor.num_cpus,
            "runtime_env": _env(PREDICTOR_ENV | {"RAYON_NUM_THREADS": str(config.predictor.threads)}),
        },
        user_config=LivePredictor().model_dump(),
        max_surge_percent=config.rollout.front_surge_percent,
        logging_config=QUIET,
        **autoscaling_options(config.predictor),
    ).bind(config)
    solver = Solver.options(  # type: ignore[attr-defined]
        health_check_period_s=CHECK_PERIOD_S,
        health_check_timeout_s=CHECK_TIMEOUT_S,
        ray_actor_options={"num_cpus": config.solver.num_cpus, "runtime_env": _env({"OMP_NUM_THREADS": "1"})},
        max_surge_percent=config.rollout.front_surge_percent,
        logging_config=QUIET,
    ).bind(config.solver.time_limit_s)
    engines = {engine_name(model, group): _engine(model, group, config) for model, group in in_order(config.models)}
    sleepers = {model.name: engines[engine_name(model, model.groups[0])] for model in config.models if model.may_sleep}
    node = config.router.node
    router = Router.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.router.num_cpus, **({} if node is None else pin(node))},
        user_config=config.routing.model_dump(),
        # Exchanges end within seconds; longer than that, one that hangs would keep its successor's CPUs.
        graceful_shutdown_timeout_s=PARTING_S,
        logging_config=QUIET,
        **CHECKED,
    ).bind(config, solver, engines, sleepers)
    jobs = None if config.bulk is None else _jobs(config, config.bulk, router, predictor, knowledge)
    return Ingress.options(  # type: ignore[attr-defined]
        num_replicas=config.ingress.num_replicas,
        ray_actor_options={"num_cpus": config.ingress.num_cpus},
        max_surge_percent=config.rollout.front_surge_percent,
        graceful_shutdown_timeout_s=config.dispatch.request_timeout_s + PARTING_S,
        logging_config=QUIET,
        **CHECKED,
    ).bind(config, router, predictor, knowledge.mean_success, jobs=jobs)


def _jobs(
    config: ServiceConfig,
    bulk: BulkConfig,
    router: serve.Application,
    predictor: serve.Application,
    knowledge: Knowledge,
) -> serve.Application:
    return Jobs.options(  # type: ignore[attr-defined]
        num_replicas=bulk.num_replicas,
        ray_actor_options={"num_cpus": bulk.num_cpus},
        max_surge_percent=config.rollout.front_surge_percent,
        graceful_shutdown_timeout_s=PARTING_S,
        logging_config=QUIET,
        **CHECKED,
    ).bind(config, router, predictor, knowledge.mean_success, knowledge.by_name_only, knowledge.cascades)


def _engine(model: ModelConfig, group: ReplicaGroup, config: ServiceConfig) -> serve.Application:
    dispatch, longest_s = config.dispatch, config.dispatch.request_timeout_s
    stall_s = (model.timeouts or dispatch.engine_timeouts).stall_s
    place = EnginePlace(dispatch.engine_host, dispatch.engine_ports or ANY_PORT, stall_s, longest_s)
    deployed = with_defaults(model.of_group(group))
    return Engine.options(  # type: ignore[attr-defined]
        name=engine_name(model, group),
        max_surge_percent=config.rollout.engine_surge_percent,
        health_check_period_s=5,
        health_check_timeout_s=20,
        graceful_shutdown_timeout_s=longest_s + PARTING_S,
        logging_config=QUIET,
        **autoscaling_options(group, group.downscale_to_zero_delay_s),
        **deployment_options(group, _env(environment(deployed) | gpu_environment(group))),
    ).bind(deployed, place)


def engine_name(model: ModelConfig, group: ReplicaGroup) -> str:
    """The deployment of a model's group; a hub id's slash is no part of a deployment's name."""
    name = "Engine-" + model.name.replace("/", "--")
    alike = model.replica_groups is None and group.name == ONE_GROUP
    return name if alike else f"{name}-{group.name}"


def _env(variables: dict[str, str]) -> dict[str, Any]:
    return {"env_vars": variables}
