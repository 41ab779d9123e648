"""The ingress's way to the predictor: prompts go from here straight to its replicas, and the router sees no word."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from ray.serve.handle import DeploymentHandle

from apportion.deployments.config.service import PredictorConfig, ServiceConfig
from apportion.router.arrays import FloatArray
from apportion.router.batch.forecasting.forecaster import CallLimits, FleetFacts, Forecaster, Lane, Predict
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.prompt import Prompt
from apportion.router.unpriced import Unpriced

logger = logging.getLogger(__name__)

# On a CPU a call takes as long as its requests together, and so long whoever comes next waits: some hundredths of a
# second. A GPU takes many at once.
CPU_CALL_ITEMS, GPU_CALL_ITEMS = 32, 256
ORDINARY_CHARS = 100_000  # of an ordinary call
BULK_ITEMS, BULK_CHARS = 16, 50_000
LEARN_S = 5.0  # between two looks for what the predictor has not told yet
PATIENCE = 0.25  # of the predictor's time-out: who stands in line for longer goes without a prediction


# The prompts, the models and whether the call may take long, as the Predictor's `predict` has them.
Predictor = Callable[[Sequence[Prompt], tuple[str, ...], bool], Awaitable[Unpriced]]


def forecaster_of(
    config: ServiceConfig, predictor: Predictor, mean_success: FloatArray, bulk_calls: CallLimits | None = None
) -> Forecaster:
    """The forecaster of one ingress of a configuration.

    Args:
        mean_success: (M,), what is left to go by without the predictor.
        bulk_calls: what the predictor gets at once of what is only planned; None: little, since others wait.
    """
    models = config.names
    facts = FleetFacts(
        models,
        mean_success,
        np.array([column.max_model_len for column in config.columns], dtype=float),
        np.array([column.capabilities.media_tokens for column in config.columns]),
        np.array([column.max_tokens or np.inf for column in config.columns]),
    )
    timeout_s = config.predictor.timeout_s

    def lane(name: str, limits: CallLimits, *, bulk: bool) -> Lane:
        part = Part(name, timeout_s, time.monotonic)
        return Lane(_predict_by(predictor, models, bulk=bulk), part, limits, models)

    return Forecaster(
        lane("predictor", ordinary_calls(config.predictor), bulk=False),
        lane(
            "predictor of long texts",
            bulk_calls or CallLimits(BULK_ITEMS, BULK_CHARS, 1, PATIENCE * timeout_s),
            bulk=True,
        ),
        facts,
        ordinary_chars=min(ORDINARY_CHARS, config.predictor.max_call_chars),
        max_chars=config.predictor.max_call_chars,
    )


async def learn_token_chars(forecaster: Forecaster, config: ServiceConfig, predictor: DeploymentHandle) -> None:
    """Asks the predictor for what refuses texts by their length, until it is there and answers."""
    while True:
        try:
            forecaster.token_chars = await predictor.token_chars.remote(config.names)
        except Exception as error:
            logger.info("the predictor's bounds of texts are not known yet: %s", type(error).__name__)
            await asyncio.sleep(LEARN_S)
        else:
            return


def ordinary_calls(config: PredictorConfig) -> CallLimits:
    """What the predictor gets at once, of what is no long text."""
    items = GPU_CALL_ITEMS if config.num_gpus else CPU_CALL_ITEMS
    return CallLimits(
        items, min(ORDINARY_CHARS, config.max_call_chars), config.num_replicas, PATIENCE * config.timeout_s
    )


def _predict_by(predictor: Predictor, models: tuple[str, ...], *, bulk: bool) -> Predict:
    """The Predictor's answer, which has a column for each of the models, in their order.

    They go by name: while a deploy changes the models, the Predictor of the moment may have others.
    """

    async def predict(prompts: Sequence[Prompt]) -> Unpriced:
        return await predictor(list(prompts), models, bulk)

    return predict
