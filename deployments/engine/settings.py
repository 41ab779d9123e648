"""Environment and arguments that a vLLM engine starts with, on a GPU and without one."""

from __future__ import annotations

from apportion.deployments.config.models import ModelConfig

# vLLM reads these when it is imported, so they belong into the process's environment before.
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


def with_defaults(model: ModelConfig) -> ModelConfig:
    """The model with what its engine needs where there is no GPU; what the user has set stays."""
    if model.num_gpus > 0 or model.engine != "vllm":
        return model
    return model.model_copy(update={"engine_args": CPU_ENGINE_ARGS | model.engine_args})


def environment(model: ModelConfig) -> dict[str, str]:
    """The environment of the model's replicas."""
    return ENGINE_ENV | ({} if model.num_gpus > 0 else CPU_ENGINE_ENV) | model.env
