"""The artefact: everything a predictor needs besides its encoder, as one folder.

artefact.json        version, models, prices, encoder, data hash, report, and the estimator's settings
weights.safetensors  the estimator's arrays and the calibration
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apportion.router.checked import mistakes
from apportion.router.drift.shift import Reference
from apportion.router.errors import ArtefactError

VERSION = 5
# What wrote version 2 knew no features of requests, so its head reads none; version 3 had no reference, 4 no cascades.
_READ = (2, 3, 4, VERSION)
DESCRIPTION_FILE = "artefact.json"
WEIGHTS_FILE = "weights.safetensors"

Arrays = dict[str, NDArray[Any]]


class _Strict(BaseModel):
    # JSON has no NaN: it would be written as null and refused when read.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EncoderRecord(_Strict):
    """The encoder that the embeddings came from."""

    source: Annotated[str, Field(description="Folder, hub id or `minilm`.")]
    weights_sha256: Annotated[str, Field(description="Checksum of its weights; another encoder is refused.")]
    max_tokens: Annotated[int, Field(gt=0, description="Longer texts lose their beginning.")]
    dimension: Annotated[int, Field(gt=0, description="Length of its vectors.")]


class ModelRecord(_Strict):
    """One model that outcomes are predicted for."""

    name: Annotated[str, Field(description="Name, as in the configuration.")]
    input_usd_per_million: Annotated[float | None, Field(ge=0, description="USD per million input tokens.")]
    output_usd_per_million: Annotated[float | None, Field(ge=0, description="USD per million output tokens.")]
    cached_input_usd_per_million: Annotated[
        float | None, Field(ge=0, description="USD per million input tokens from a prefix cache.")
    ] = None
    mean_success: Annotated[float, Field(ge=0, le=1, description="Mean score in the training data.")]
    margin: Annotated[float, Field(ge=0, le=1, description="Advantage it needs to count as better than the incumbent.")]


class CalibrationRecord(_Strict):
    """How well calibrated the estimates are on requests that were not trained on: raw, and as they are predicted, which
    is calibrated and with the incumbent in its place.
    """

    split: Annotated[str, Field(description="Rows it was measured on.")]
    rows: Annotated[int, Field(ge=0, description="Number of requests.")]
    ece_before: Annotated[float, Field(description="Expected calibration error of the raw estimates.")]
    ece_after: Annotated[float, Field(description="Expected calibration error of what is predicted.")]
    brier_before: Annotated[float, Field(description="Brier score of the raw estimates.")]
    brier_after: Annotated[float, Field(description="Brier score of what is predicted.")]


class ReferenceRecord(_Strict):
    """How predicted success was spread over the calibration rows; a list a model."""

    edges: Annotated[list[list[float]], Field(description="Deciles.")]
    shares: Annotated[list[list[float]], Field(description="Shares of the rows between them.")]

    @classmethod
    def of(cls, reference: Reference) -> ReferenceRecord:
        return cls(edges=reference.edges.tolist(), shares=reference.shares.tolist())

    @property
    def reference(self) -> Reference:
        return Reference(np.array(self.edges), np.array(self.shares))


class TrialRecord(_Strict):
    """What held-out outcomes said of a cascade: one model first, another where its answer is not sure enough."""

    first: Annotated[str, Field(description="Model that answers first.")]
    second: Annotated[str, Field(description="Model that is asked where the first answer is not sure enough.")]
    gain: Annotated[float, Field(description="Mean score gained over routing at the same spend.")]
    at_least: Annotated[float, Field(description="Its lower bound, with 99 % confidence over all trials.")]
    taken: Annotated[int, Field(ge=0, description="Requests that took the cascade at some price.")]
    offered: Annotated[bool, Field(description="Whether it passed; its arrays stand in the order of those that did.")]


class CascadesRecord(_Strict):
    """The cascades that were tried on the calibration rows."""

    closed: Annotated[str | None, Field(description="Why none was tried; null: some were.")]
    trials: Annotated[list[TrialRecord], Field(description="Trials, in their order.")]


class Description(_Strict):
    """Contents of artefact.json."""

    version: Annotated[int, Field(description="Version of this format.")]
    models: Annotated[list[ModelRecord], Field(min_length=1, description="Models, in the order of columns.")]
    incumbent: Annotated[str, Field(description="Best single model; others have to be better by their margin.")]
    encoder: Annotated[EncoderRecord, Field(description="Encoder of the embeddings.")]
    data_sha256: Annotated[list[str], Field(description="Hashes of the outcomes tables that it learned from.")]
    calibration: Annotated[list[CalibrationRecord], Field(description="Calibration reports.")]
    reference: Annotated[
        ReferenceRecord | None, Field(description="What later predictions are compared with; null: nothing.")
    ] = None
    cascades: Annotated[
        CascadesRecord | None, Field(description="Cascades; null: the outcomes had no signals of sureness.")
    ] = None
    estimator: Annotated[str, Field(description="Kind of estimator.")]
    settings: Annotated[dict[str, int | float], Field(description="Settings of the estimator.")]

    @property
    def names(self) -> tuple[str, ...]:
        """The models, in the order of columns."""
        return tuple(record.name for record in self.models)


def write_artefact(folder: Path, description: Description, arrays: Arrays) -> None:
    """Write the folder, made where it does not exist."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(folder / WEIGHTS_FILE))
    (folder / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=2) + "\n")


def read_description(folder: Path) -> Description:
    """Read what the folder says of itself; raises ArtefactError when it is none, broken, or of another version."""
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ArtefactError(
                f"artefact {folder}: it has no {name}, give the folder that `apportion train --out` wrote"
            )
    try:
        description = Description.model_validate_json((folder / DESCRIPTION_FILE).read_text())
    except ValidationError as error:
        raise _damaged(folder, mistakes(error)[0]) from error
    if description.version not in _READ:
        raise ArtefactError(
            f"artefact {folder}: it has version {description.version}, this release reads {_READ[0]} to {VERSION}, "
            "train it again"
        )
    return description


def read_artefact(folder: Path) -> tuple[Description, Arrays]:
    """As `read_description`, with the arrays."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    description = read_description(folder)
    try:
        return description, load_file(str(folder / WEIGHTS_FILE))
    except SafetensorError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, what: object) -> ArtefactError:
    return ArtefactError(f"artefact {folder}: it is damaged or of another version ({what}), train it again")
