"""The predictor: texts in, calibrated success, spread and output tokens on every model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.errors import ArtefactError
from apportion.router.prediction.artefact import (
    VERSION,
    CalibrationRecord,
    Description,
    EncoderRecord,
    ModelRecord,
    read_artefact,
    write_artefact,
)
from apportion.router.prediction.calibration import Calibration
from apportion.router.prediction.features import Features
from apportion.router.prediction.incumbent import Incumbent
from apportion.router.prediction.prediction import Prediction
from apportion.router.prediction.stored import StoredEstimator, from_arrays, kind_of, to_arrays
from apportion.router.prices import ModelPrice

if TYPE_CHECKING:
    from apportion.router.prediction.encoder import Encoder

_CALIBRATION = ("temperatures", "bucket_estimates", "bucket_values")


@dataclass(frozen=True)
class Predictor:
    """Encoder, estimator, calibration and incumbent of `models`.

    `mean_success` `(n_models,)` is the mean score in the training data: the estimate to fall back on when
    there is no prediction. `prices` holds the list prices that the data came with; `data_hashes` what it
    learned from.
    """

    encoder: Encoder
    estimator: StoredEstimator
    calibration: Calibration
    incumbent: Incumbent
    mean_success: FloatArray
    prices: Mapping[str, ModelPrice]
    data_hashes: tuple[str, ...]
    reports: tuple[CalibrationRecord, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Models, in the order of the columns of every prediction."""
        return self.estimator.models

    @classmethod
    def load(
        cls,
        artefact: str | Path,
        *,
        encoder: str | Encoder | None = None,
        models: Sequence[str] | None = None,
        device: str = "auto",
    ) -> Predictor:
        """Read an artefact and load its encoder (or the given one, which must have the same weights).

        `models`, where given, are the configured models in their order; predictions take that order.
        Raises ArtefactError for a broken artefact, other models, or an encoder with other weights.
        """
        from apportion.router.prediction.encoder import Encoder

        description, arrays = read_artefact(Path(artefact))
        names = tuple(record.name for record in description.models)
        if models is not None and sorted(models) != sorted(names):
            _refuse_models(names, models)
        record = description.encoder
        if encoder is None or isinstance(encoder, str):
            encoder = Encoder.load(encoder or record.source, device=device, max_tokens=record.max_tokens)
        _check_encoder(encoder, record)
        estimator = from_arrays(description.estimator, names, arrays, description.settings, str(encoder.device))
        loaded = cls(
            encoder=encoder,
            estimator=estimator,
            calibration=Calibration(*(arrays[f"calibration.{name}"] for name in _CALIBRATION)),
            incumbent=_incumbent(description),
            mean_success=np.array([record.mean_success for record in description.models]),
            prices=_prices(description.models),
            data_hashes=tuple(description.data_sha256),
            reports=tuple(description.calibration),
        )
        return loaded if models is None else loaded._in_order(models)

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Calibrated outcomes of N texts on every model."""
        return self.predict_features(Features.of(texts, self.encoder))

    def predict_features(self, features: Features) -> Prediction:
        """Calibrated outcomes of N requests whose features are at hand."""
        return self.incumbent.apply(calibrated(self.estimator.predict(features), self.calibration))

    def save(self, folder: str | Path) -> None:
        """Write the artefact."""
        arrays, settings = to_arrays(self.estimator)
        arrays |= {f"calibration.{name}": getattr(self.calibration, name) for name in _CALIBRATION}
        description = Description(
            version=VERSION,
            models=[self._record(column) for column in range(len(self.models))],
            incumbent=self.models[self.incumbent.model],
            encoder=EncoderRecord(
                source=self.encoder.source,
                weights_sha256=self.encoder.weights_hash,
                max_tokens=self.encoder.max_tokens,
                dimension=self.encoder.dimension,
            ),
            data_sha256=list(self.data_hashes),
            calibration=list(self.reports),
            estimator=kind_of(self.estimator),
            settings=settings,
        )
        write_artefact(Path(folder), description, arrays)

    def _in_order(self, models: Sequence[str]) -> Predictor:
        columns = [self.models.index(model) for model in models]
        return replace(
            self,
            estimator=self.estimator.select(models),
            calibration=self.calibration.select(columns),
            incumbent=self.incumbent.select(columns),
            mean_success=self.mean_success[columns],
        )

    def _record(self, column: int) -> ModelRecord:
        price = self.prices.get(self.models[column])
        return ModelRecord(
            name=self.models[column],
            input_usd_per_million=price.input_usd_per_million if price else None,
            output_usd_per_million=price.output_usd_per_million if price else None,
            mean_success=float(self.mean_success[column]),
            margin=float(self.incumbent.margins[column]),
        )


def calibrated(prediction: Prediction, calibration: Calibration) -> Prediction:
    """The prediction with its success, and every member's, calibrated."""
    samples = calibration.apply(prediction.success_samples)
    return replace(
        prediction,
        success=calibration.apply(prediction.success),
        success_samples=samples,
        success_std=samples.std(axis=0),
    )


def _refuse_models(artefact: Sequence[str], configured: Sequence[str]) -> None:
    raise ArtefactError(
        f"The artefact predicts {sorted(artefact)}, the configuration has {sorted(configured)}; only in "
        "the artefact: "
        f"{sorted(set(artefact) - set(configured))}, only in the configuration: "
        f"{sorted(set(configured) - set(artefact))}. Train an artefact for the configured models."
    )


def _check_encoder(encoder: Encoder, record: EncoderRecord) -> None:
    if encoder.weights_hash != record.weights_sha256:
        raise ArtefactError(
            f"The artefact was trained on the encoder {record.source!r} (SHA-256 {record.weights_sha256}), "
            f"{encoder.source!r} has {encoder.weights_hash}: load that encoder, or train with this one."
        )
    if encoder.max_tokens != record.max_tokens:
        raise ArtefactError(
            f"The artefact's embeddings are cut at {record.max_tokens} tokens, the encoder given cuts at "
            f"{encoder.max_tokens}: load it with max_tokens={record.max_tokens}."
        )


def _incumbent(description: Description) -> Incumbent:
    names = [record.name for record in description.models]
    if description.incumbent not in names:
        raise ArtefactError(
            f"The artefact's incumbent {description.incumbent!r} is none of its models: train it again."
        )
    return Incumbent(names.index(description.incumbent), np.array([record.margin for record in description.models]))


def _prices(records: Sequence[ModelRecord]) -> dict[str, ModelPrice]:
    return {
        r.name: ModelPrice(r.input_usd_per_million, r.output_usd_per_million)
        for r in records
        if r.input_usd_per_million is not None and r.output_usd_per_million is not None
    }
