"""The predictor: texts in, calibrated success, spread and output tokens on every model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.calibration import Calibration
from apportion.router.cascade.gate import Gate
from apportion.router.cascade.pair import Pair
from apportion.router.drift.shift import Reference
from apportion.router.errors import ArtefactError
from apportion.router.prediction.artefact import (
    VERSION,
    Arrays,
    CalibrationRecord,
    Description,
    EncoderRecord,
    ModelRecord,
    ReferenceRecord,
    read_artefact,
    write_artefact,
)
from apportion.router.prediction.calibrated import Calibrated, select
from apportion.router.prediction.cascading import cascades_arrays, cascades_record, restored_gate
from apportion.router.prediction.encoders import restored
from apportion.router.prediction.estimator import StorableEstimator
from apportion.router.prediction.estimators import restore
from apportion.router.prediction.features import Features
from apportion.router.prediction.incumbent import Incumbent
from apportion.router.prediction.prediction import Prediction
from apportion.router.prices import ModelPrice
from apportion.router.traits import Traits

if TYPE_CHECKING:
    from apportion.router.prediction.text_encoder import TextEncoder

_CALIBRATION = ("temperatures", "bucket_estimates", "bucket_values")


@dataclass(frozen=True)
class Predictor:
    """An encoder, and what predicts from its features.

    `prices` holds the list prices that the data came with; `data_hashes` what it learned from; `reference` how success
    was predicted for the rows that calibrated it, where that is known. `gate` is what those rows said of cascades; None
    where they had no signals of how sure models were.
    """

    encoder: TextEncoder
    calibrated: Calibrated[StorableEstimator]
    prices: Mapping[str, ModelPrice]
    data_hashes: tuple[str, ...]
    reports: tuple[CalibrationRecord, ...]
    reference: Reference | None = None
    gate: Gate | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Models, in the order of the columns of every prediction."""
        return self.calibrated.estimator.models

    @property
    def cascades(self) -> tuple[Pair, ...]:
        """Pairs of models whose cascade held-out outcomes proved to gain over routing."""
        return () if self.gate is None else self.gate.pairs

    @property
    def mean_success(self) -> FloatArray:
        """(n_models,) mean score in the training data: the estimate to fall back on when there is no prediction."""
        return self.calibrated.mean_success

    @classmethod
    def load(
        cls,
        artefact: str | Path,
        *,
        encoder: str | TextEncoder | None = None,
        models: Sequence[str] | None = None,
        device: str = "auto",
    ) -> Predictor:
        """Read an artefact and load its encoder (or the given one, which must have the same weights).

        A str says where the transformer of its encoder lies now; an artefact with static vectors takes none.
        `models`, where given, are those to predict, in their order; predictions take that order.
        Raises ArtefactError for a broken artefact, models that it does not know, none at all, or an encoder with other
        weights.
        """
        description, arrays = read_artefact(Path(artefact))
        if models is not None:
            _check_models(description.names, models)
        encoder = restored(description.encoder, arrays, encoder, device)
        loaded = cls(
            encoder=encoder,
            calibrated=_calibrated(description, arrays, str(encoder.device)),
            prices=_prices(description.models),
            data_hashes=tuple(description.data_sha256),
            reports=tuple(description.calibration),
            reference=None if description.reference is None else description.reference.reference,
            gate=restored_gate(description.cascades, arrays, description.names if models is None else models),
        )
        if models is None:
            return loaded
        columns = [loaded.models.index(model) for model in models]
        known = loaded.reference
        return replace(
            loaded,
            calibrated=select(loaded.calibrated, list(models)),
            reference=None if known is None else known.select(columns),
        )

    def predict(self, texts: Sequence[str], traits: Sequence[Traits] | None = None) -> Prediction:
        """Calibrated outcomes of N texts on every model; requests without `traits` are plain prompts."""
        return self.predict_features(Features.of(texts, self.encoder, traits))

    def predict_features(self, features: Features) -> Prediction:
        """Calibrated outcomes of N requests whose features are at hand."""
        return self.calibrated.predict(features)

    def save(self, folder: str | Path) -> None:
        """Write the artefact."""
        estimator, calibration = self.calibrated.estimator, self.calibrated.calibration
        arrays = (
            self.encoder.arrays()
            | estimator.arrays()
            | {f"calibration.{name}": getattr(calibration, name) for name in _CALIBRATION}
            | cascades_arrays(self.cascades)
        )
        description = Description(
            version=VERSION,
            models=[self._record(column) for column in range(len(self.models))],
            incumbent=self.models[self.calibrated.incumbent.model],
            encoder=EncoderRecord(
                source=self.encoder.source,
                weights_sha256=self.encoder.weights_hash,
                max_tokens=self.encoder.max_tokens,
                dimension=self.encoder.dimension,
            ),
            data_sha256=list(self.data_hashes),
            calibration=list(self.reports),
            reference=None if self.reference is None else ReferenceRecord.of(self.reference),
            cascades=cascades_record(self.gate),
            estimator=estimator.kind,
            settings=estimator.settings(),
        )
        write_artefact(Path(folder), description, arrays)

    def _record(self, column: int) -> ModelRecord:
        price = self.prices.get(self.models[column])
        return ModelRecord(
            name=self.models[column],
            input_usd_per_million=price.input_usd_per_million if price else None,
            output_usd_per_million=price.output_usd_per_million if price else None,
            cached_input_usd_per_million=price.cached_input_usd_per_million if price else None,
            mean_success=float(self.mean_success[column]),
            margin=float(self.calibrated.incumbent.margins[column]),
        )


def _calibrated(description: Description, arrays: Arrays, device: str) -> Calibrated[StorableEstimator]:
    return Calibrated(
        estimator=restore(description.estimator, description.names, arrays, description.settings, device),
        calibration=Calibration(*(arrays[f"calibration.{name}"] for name in _CALIBRATION)),
        incumbent=_incumbent(description),
        mean_success=np.array([record.mean_success for record in description.models]),
    )


def _check_models(known: Sequence[str], asked: Sequence[str]) -> None:
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        what = f"it knows nothing of {', '.join(unknown)}" if unknown else "none of its models is asked for"
        raise ArtefactError(
            f"models: the artefact predicts {', '.join(known)}, and {what}; correct the names, or train it on outcomes "
            "of these models"
        )


def _incumbent(description: Description) -> Incumbent:
    names = description.names
    if description.incumbent not in names:
        raise ArtefactError(f"incumbent {description.incumbent!r}: it is none of the artefact's models, train it again")
    return Incumbent(names.index(description.incumbent), np.array([record.margin for record in description.models]))


def _prices(records: Sequence[ModelRecord]) -> dict[str, ModelPrice]:
    return {
        r.name: ModelPrice(r.input_usd_per_million, r.output_usd_per_million, r.cached_input_usd_per_million)
        for r in records
        if r.input_usd_per_million is not None and r.output_usd_per_million is not None
    }
