"""A predictor for every model of a fleet, also for those that have no outcomes yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.prediction.artefact import read_description
from apportion.router.prediction.prediction import Prediction
from apportion.router.prediction.predictor import Predictor
from apportion.router.traits import Traits

if TYPE_CHECKING:
    from apportion.router.prediction.text_encoder import TextEncoder


@dataclass(frozen=True)
class FleetPredictor:
    """Predictions with a column for each of `models`, in that order.

    Of a model that `known` does not predict, success is what `priors` state (0 where they state nothing), as unsure as
    the least sure of the others'; its answers are as long as the longest of theirs, so that nobody takes it for cheap.
    The incumbent is not lifted over it: what is stated is taken at its word.
    """

    known: Predictor
    models: tuple[str, ...]
    priors: Mapping[str, float | None]

    @classmethod
    def load(
        cls,
        artefact: str | Path,
        priors: Mapping[str, float | None],
        *,
        encoder: str | TextEncoder | None = None,
        device: str = "auto",
    ) -> FleetPredictor:
        """Reads an artefact as `Predictor.load` does.

        Args:
            priors: every model of the fleet, in the order of the columns, with its success if the artefact does not
                know it; None: nobody states one.

        Raises:
            ArtefactError: the artefact is broken, or knows none of the models.
        """
        learned = read_description(Path(artefact)).names
        known = [model for model in priors if model in learned]
        return cls(Predictor.load(artefact, encoder=encoder, models=known, device=device), tuple(priors), priors)

    @property
    def by_name_only(self) -> tuple[int, ...]:
        """Columns of the models of which nobody says how well they answer."""
        known = self.known.models
        return tuple(j for j, model in enumerate(self.models) if model not in known and self.priors[model] is None)

    @property
    def encoder(self) -> TextEncoder:
        return self.known.encoder

    def predict(self, texts: Sequence[str], traits: Sequence[Traits] | None = None) -> Prediction:
        """Outcomes of N texts on every model; requests without `traits` are plain prompts."""
        found = self.known.predict(texts, traits)
        return found if self.models == self.known.models else self._widened(found)

    def _widened(self, found: Prediction) -> Prediction:
        columns = [self.models.index(model) for model in self.known.models]
        prior = np.array([self.priors[model] or 0.0 for model in self.models])

        def wide(known: FloatArray, unknown: FloatArray) -> FloatArray:
            table = np.array(np.broadcast_to(unknown, (*known.shape[:-1], len(self.models))))
            table[..., columns] = known
            return table

        least_sure = found.success_std.argmax(axis=1)[None, :, None]
        doubt = np.take_along_axis(found.success_samples, least_sure, axis=2)
        samples = np.clip(prior + doubt - doubt.mean(axis=0), 0.0, 1.0)
        lifted = found.calibrated_success
        return replace(
            found,
            success=wide(found.success, prior),
            success_std=wide(found.success_std, samples.std(axis=0)),
            success_samples=wide(found.success_samples, samples),
            output_tokens=wide(found.output_tokens, found.output_tokens.max(axis=1, keepdims=True)),
            output_tokens_std=wide(found.output_tokens_std, found.output_tokens_std.max(axis=1, keepdims=True)),
            calibrated_success=None if lifted is None else wide(lifted, prior),
        )
