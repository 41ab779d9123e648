"""Environment and arguments that a vLLM engine starts with, on a GPU and without one."""

from __future__ import annotations

from apportion.deployments.config.models import ModelConfig

# vLLM reads these when it is imported, so they belong into the process's environment before.
ENGINE_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    # Of a picture, 8192 by 8192: a small file may hold many more of one colour, and each takes three bytes of memory.
    "VLLM_MAX_IMAGE_PIXELS": str(1 << 26),
}
# An engine stands inside the network and fetches what URLs in messages point to, from anywhere if no domain is named;
# this one can never exist (RFC 2606). Data in the message itself needs no fetching.
# Clients are told how much of their prompts came from the prefix cache, since they pay less for that.
ENGINE_ARGS = {"allowed_media_domains": ["nowhere.invalid"], "enable_prompt_tokens_details": True}
# Without a GPU: one child process an engine; no pinning, which would put all engines on the same core; one thread,
# since a second one halves the speed of small models.
CPU_ENGINE_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
CPU_ENGINE_ARGS = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}


def with_defaults(model: ModelConfig) -> ModelConfig:
    """The model with what its engine needs to be safe, and to run without a GPU; what the user has set stays."""
    if model.engine != "vllm":
        return model
    defaults = ENGINE_ARGS if model.num_gpus > 0 else ENGINE_ARGS | CPU_ENGINE_ARGS
    return model.model_copy(update={"engine_args": defaults | model.engine_args})


def environment(model: ModelConfig) -> dict[str, str]:
    """The environment of the model's replicas."""
    return ENGINE_ENV | ({} if model.num_gpus > 0 else CPU_ENGINE_ENV) | model.env
