"""From configuration to application: `import_path: deployments.app:build` in `serve_config.yaml`."""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.config import ModelConfig, ServiceConfig, mean_success, parse_config
from deployments.engine import DRAIN_LIMIT_S, Engine
from deployments.ingress import Ingress
from deployments.predictor import Predictor
from deployments.router import Router
from deployments.solver import Solver

# vLLM reads these when it is imported, so they belong into the replica's environment.
ENGINE_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# Without a GPU: one child process an engine; no pinning, which would put all engines on the same core; one thread,
# since a second one halves the speed of small models.
CPU_ENGINE_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
CPU_ENGINE_ARGS = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
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
    """Ingress -> Router -> Predictor, Solver; and one Engine deployment a model, which the plan leads to directly."""
    mean_success(config)  # an artefact for other models is refused before anything starts
    predictor = Predictor.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_gpus": config.predictor.num_gpus, "num_cpus": config.predictor.num_cpus},
        logging_config=QUIET,
    ).bind(config)
    solver = Solver.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.solver.num_cpus, "runtime_env": _env({"OMP_NUM_THREADS": "1"})},
        logging_config=QUIET,
    ).bind(config.solver.time_limit_s)
    engines = {model.name: _engine(model, config.dispatch.engine_host) for model in config.models}
    router = Router.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.router.num_cpus},
        user_config=config.routing.model_dump(),
        logging_config=QUIET,
    ).bind(config, predictor, solver, engines)
    return Ingress.options(  # type: ignore[attr-defined,no-any-return]
        num_replicas=config.ingress.num_replicas,
        ray_actor_options={"num_cpus": config.ingress.num_cpus},
        logging_config=QUIET,
    ).bind(config, router)


def _engine(model: ModelConfig, host: str | None) -> serve.Application:
    on_gpu = model.num_gpus > 0
    if not on_gpu and model.engine == "vllm":
        model = model.model_copy(update={"engine_args": CPU_ENGINE_ARGS | model.engine_args})
    env = ENGINE_ENV | ({} if on_gpu else CPU_ENGINE_ENV) | model.env
    return Engine.options(  # type: ignore[attr-defined,no-any-return]
        name=engine_name(model.name),
        num_replicas=model.num_replicas,
        ray_actor_options={
            "num_gpus": model.num_gpus,
            "num_cpus": model.num_cpus,
            "runtime_env": _env(env),
        },
        health_check_period_s=5,
        health_check_timeout_s=20,
        graceful_shutdown_timeout_s=DRAIN_LIMIT_S + 10,
        logging_config=QUIET,
    ).bind(model, host)


def engine_name(model: str) -> str:
    """The deployment of a model; a hub id's slash is no part of a deployment's name."""
    return "Engine-" + model.replace("/", "--")


def _env(variables: dict[str, str]) -> dict[str, Any]:
    return {"env_vars": variables}
