"""The Predictor: counts a batch's input tokens, encodes its prompts, and estimates success and cost on every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ray import serve

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.watch import Watch
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.messages import RouteItem
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice


@serve.deployment
class Predictor:
    """The library's predictor and the models' tokenizers, on a share of a GPU or on the CPU."""

    def __init__(self, config: ServiceConfig) -> None:
        log_to_serve()
        self._watch = Watch("predictor")
        # Here, not above: the other deployments import this module's name and need no torch.
        import torch

        from apportion.router.prediction.estimation import RequestEstimator
        from apportion.router.prediction.predictor import Predictor as LibraryPredictor
        from apportion.router.prediction.tokens import TokenCounter

        torch.set_num_threads(config.predictor.threads)
        self._estimator = RequestEstimator(
            predictor=LibraryPredictor.load(
                config.predictor.artefact_path,
                encoder=config.predictor.encoder_source,
                models=config.names,
                device="cuda" if config.predictor.num_gpus else "cpu",
            ),
            counter=TokenCounter.load({model.name: model.tokenizer_source for model in config.models}),
            context=np.array([model.max_model_len for model in config.models], dtype=float),
        )
        self.predict([RouteItem("warm-up", "What is 1 plus 1?")], [model.price for model in config.models])

    def predict(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Estimates for the items; one that cannot be read gets an error of its own and spoils nothing.

        Args:
            prices: of the models at present, in the configuration's order.
        """
        with self._watch.call():
            return self._estimator.estimate(items, prices)

    def check_health(self) -> None:
        """Raises: UnavailableError: it hangs, so that Serve starts another in its place."""
        self._watch.check()
