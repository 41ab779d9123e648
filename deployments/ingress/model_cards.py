"""What `GET /v1/models` tells of a model's abilities, and of `auto`, which has those of all that it chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apportion.deployments.config.models import ModelConfig
from apportion.router.batch.capabilities import UNLIMITED, Capabilities

_MODALITIES = {"images": "image", "audio": "audio"}
_COUNTED = ("logprobs", *_MODALITIES)


def card(model: ModelConfig) -> dict[str, Any]:
    """Context and capabilities of one model."""
    return _card(model.max_model_len, model.all_capabilities)


def auto_card(models: Sequence[ModelConfig]) -> dict[str, Any]:
    """The most that any of the models can do, and under `guaranteed` what each can; nothing of no models."""
    if not models:
        return {}
    contexts = [model.max_model_len for model in models]
    columns = list(zip(*(model.all_capabilities for model in models), strict=True))
    every = _card(min(contexts), Capabilities(*map(min, columns)))
    return _card(max(contexts), Capabilities(*map(max, columns))) | {"guaranteed": every}


def _card(max_model_len: int, can: Capabilities) -> dict[str, Any]:
    most = {f"max_{name}": getattr(can, name) for name in _COUNTED}
    return {
        "max_model_len": max_model_len,
        "capabilities": {name: bool(n) for name, n in can._asdict().items() if name not in _MODALITIES},
        "input_modalities": ["text", *(_MODALITIES[name] for name in can.names if name in _MODALITIES)],
        **{name: None if n == UNLIMITED else n for name, n in most.items()},
    }
