"""The Predictor: counts a batch's input tokens, encodes its prompts, and estimates success and cost on every model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.artefacts import Artefacts
from apportion.deployments.control.watch import Watch
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.messages import RouteItem
from apportion.router.errors import UnavailableError
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice

if TYPE_CHECKING:
    from apportion.router.prediction.fleet_predictor import FleetPredictor


@serve.deployment
class Predictor:
    """The library's predictor and the models' tokenizers, on a share of a GPU or on the CPU."""

    def __init__(self, config: ServiceConfig) -> None:
        log_to_serve()
        self._watch = Watch("predictor")
        # Here, not above: the other deployments import this module's name and need no torch.
        import torch

        from apportion.router.prediction.estimation import RequestEstimator
        from apportion.router.prediction.tokens import TokenCounter

        torch.set_num_threads(config.predictor.threads)
        self._artefacts = Artefacts(config)
        self._estimator = RequestEstimator(
            predictor=self._artefacts.predictor,
            counter=TokenCounter.load(
                {model.name: model.tokenizer_source for model in config.models},
                {model.name: model.max_model_len for model in config.models},
            ),
            context=np.array([model.max_model_len for model in config.models], dtype=float),
        )
        prices = {model.name: model.price for model in config.models}
        self.predict([RouteItem("warm-up", "What is 1 plus 1?")], prices)

    def predict(self, items: Sequence[RouteItem], prices: Mapping[str, ModelPrice]) -> Estimates:
        """Estimates for the items; one that cannot be read gets an error of its own and spoils nothing.

        Args:
            prices: of the models at present; the estimates have a column for each, in this order.

        Raises:
            UnavailableError: it is the predictor of other models, since a deploy is changing them.
        """
        if tuple(prices) != self._estimator.predictor.models:
            raise UnavailableError("the router and its predictor have different models; the deploy is not done yet")
        with self._watch.call():
            return self._estimator.estimate(items, list(prices.values()))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Another artefact as soon as it is loaded, or the configuration's again; nothing restarts."""

        def taken(predictor: FleetPredictor) -> None:
            self._estimator = dataclasses.replace(self._estimator, predictor=predictor)

        self._artefacts.want(user_config, taken)

    def check_health(self) -> None:
        """Raises: UnavailableError: it hangs, so that Serve starts another in its place."""
        self._watch.check()
