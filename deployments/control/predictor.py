"""The Predictor: counts a batch's input tokens, encodes its prompts, and estimates success and cost on every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ray import serve

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.estimates import Estimates
from apportion.router.batch.messages import RouteItem
from apportion.router.prediction.chat import prompt_text
from apportion.router.prices import ModelPrice


@serve.deployment
class Predictor:
    """The library's predictor and the models' tokenizers, on a share of a GPU or on the CPU."""

    def __init__(self, config: ServiceConfig) -> None:
        log_to_serve()
        # Here, not above: the other deployments import this module's name and need no torch.
        import torch

        from apportion.router.prediction.predictor import Predictor as LibraryPredictor
        from apportion.router.prediction.tokens import TokenCounter

        torch.set_num_threads(config.predictor.threads)
        device = "cuda" if config.predictor.num_gpus else "cpu"
        self._predictor = LibraryPredictor.load(
            config.predictor.artefact_path,
            encoder=config.predictor.encoder_source,
            models=config.names,
            device=device,
        )
        self._counter = TokenCounter.load({model.name: model.resolved_source for model in config.models})
        self._max_model_len = np.array([model.max_model_len for model in config.models], dtype=float)
        self.predict([RouteItem("warm-up", "What is 1 plus 1?")], [model.price for model in config.models])

    def predict(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Estimates for the items; one that cannot be read gets an error of its own and spoils nothing.

        Args:
            prices: of the models at present, in the configuration's order.
        """
        counts, errors = self._counter.count_batch([item.content for item in items], [item.tools for item in items])
        input_tokens = counts.astype(float)
        texts = [_text(item) for item in items]
        prediction = self._predictor.predict(texts)
        asked = np.array([item.max_tokens or np.inf for item in items], dtype=float)
        room = (self._max_model_len[None, :] - input_tokens).clip(min=1).max(axis=1)
        cost_usd, cost_std_usd = prediction.cost_usd(input_tokens, prices, max_output_tokens=np.minimum(asked, room))
        sequences = np.array([item.sequences for item in items], dtype=float)[:, None]
        if (sequences > 1).any():
            input_usd = input_tokens * np.array([p.input_usd_per_million for p in prices]) / 1e6
            cost_usd = input_usd + (cost_usd - input_usd) * sequences
            cost_std_usd = cost_std_usd * np.sqrt(sequences)
        return Estimates(
            success=prediction.success,
            success_std=prediction.success_std,
            cost_usd=cost_usd,
            cost_std_usd=cost_std_usd,
            input_tokens=input_tokens,
            output_tokens=np.minimum(prediction.output_tokens, asked[:, None]),
            success_samples=prediction.success_samples,
            errors=errors,
            calibrated_success=prediction.calibrated_success,
        )


def _text(item: RouteItem) -> str:
    """The text to encode; token ids have none that all models share, so they are predicted from an empty one."""
    content = item.content
    if isinstance(content, str):
        return content
    if content and all(isinstance(part, str) for part in content):
        return "\n".join(str(part) for part in content)
    if content and isinstance(content[0], dict):
        return prompt_text(content)
    return ""
