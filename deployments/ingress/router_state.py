"""What an ingress tells of the service: the router's state, the models and their prices of the moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from apportion.deployments.config.models import AUTO_MODEL, ModelConfig
from apportion.deployments.wire.calls import answer_of

logger = logging.getLogger(__name__)

STATE_TIMEOUT_S = 2.0


class RouterState:
    """Asks the router, and knows what to say when it does not answer.

    Args:
        ask: the router's `state`.
    """

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Any]]], models: tuple[ModelConfig, ...]) -> None:
        self._ask = ask
        self._models = {model.name: model for model in models}
        self._started = int(time.time())

    async def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether every part works and every model that is to have replicas has one; and the numbers of the moment."""
        state = await self._state()
        parts = {"router": "closed", **state["parts"]} if state else {"router": "open"}
        slots = {name: model["slots"] for name, model in state.get("models", {}).items()}
        served = all(slots.get(name) for name, model in self._models.items() if model.groups)
        healthy = served and set(parts.values()) == {"closed"} and not state.get("policy_error")
        return healthy, {"healthy": healthy, **state, "parts": parts}

    async def ready(self) -> list[str]:
        """The models that can answer."""
        return [name for name, model in (await self._state()).get("models", {}).items() if model["slots"] > 0]

    async def described(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Models as OpenAI lists them, with context and price where the name is one model's."""
        prices = (await self._state()).get("prices", {})
        return [self._describe(name, prices.get(name)) for name in names]

    def _describe(self, name: str, price: dict[str, float] | None) -> dict[str, Any]:
        common = {"id": name, "object": "model", "created": self._started, "owned_by": "apportion"}
        if name == AUTO_MODEL:
            return common
        model = self._models[name]
        return common | {"max_model_len": model.max_model_len, **(price or asdict(model.price))}

    async def _state(self) -> dict[str, Any]:
        """The router's, or nothing when it does not answer."""
        try:
            return await answer_of(self._ask(), STATE_TIMEOUT_S)
        except Exception as error:
            logger.warning("the router does not tell its state: %r", error)
            return {}
