"""Starts the first replica of models that sleep, by calls that wait for one.

Serve scales a deployment without replicas by the calls that wait at its handles, at once and whatever its policy says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextvars import Context

from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)


class Waker:
    """Holds one call for each model that is wanted and has no replica.

    Args:
        engines: the deployments of models that may sleep, by the model's name.
    """

    def __init__(self, engines: Mapping[str, DeploymentHandle]) -> None:
        self._engines = engines
        self._calls: dict[str, asyncio.Task[None]] = {}

    def ask(self, wanted: Collection[str]) -> None:
        """From now on these models are wanted and no others: calls for others are taken back."""
        for model, call in list(self._calls.items()):
            if call.done() or model not in wanted:
                call.cancel()
                del self._calls[model]
        for model in wanted:
            if model not in self._calls:
                # In a context of its own: Serve cancels what was called in that of a call that is cancelled.
                self._calls[model] = asyncio.create_task(self._call(model), context=Context())

    async def _call(self, model: str) -> None:
        logger.info("model %s is asleep and wanted; asking for a replica", model)
        response = self._engines[model].where.remote()
        try:
            await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            logger.warning("model %s did not wake: %s; asking again", model, type(error).__name__)
