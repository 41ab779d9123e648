"""Fitted estimators as arrays and settings, and back: what an artefact holds of each kind."""

from __future__ import annotations

from dataclasses import asdict, fields

from apportion.router.errors import ArtefactError
from apportion.router.prediction.artefact import Arrays
from apportion.router.prediction.head import Head, HeadWeights
from apportion.router.prediction.knn import Neighbours

StoredEstimator = Head | Neighbours
"""Kinds that an artefact can hold."""


def kind_of(estimator: StoredEstimator) -> str:
    """Name of the kind in the artefact."""
    return "head" if isinstance(estimator, Head) else "knn"


def to_arrays(estimator: StoredEstimator) -> tuple[Arrays, dict[str, int | float]]:
    """Arrays and settings of a fitted estimator."""
    if isinstance(estimator, Head):
        return asdict(estimator.weights), {}
    arrays = {name: getattr(estimator, name) for name in ("embeddings", "scores", "output_tokens")}
    return arrays, {name: getattr(estimator, name) for name in ("k", "members", "seed")}


def from_arrays(
    kind: str, models: tuple[str, ...], arrays: Arrays, settings: dict[str, int | float], device: str
) -> StoredEstimator:
    """The estimator of these arrays and settings; raises ArtefactError when they do not make one."""
    try:
        if kind == "head":
            return Head(models, HeadWeights(**{f.name: arrays[f.name] for f in fields(HeadWeights)}), device)
        if kind == "knn":
            whole = {name: int(value) for name, value in settings.items()}
            # Embeddings of half precision are read too.
            embeddings = arrays["embeddings"].astype("float32")
            return Neighbours(models, embeddings, arrays["scores"], arrays["output_tokens"], **whole)
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"The artefact's {kind} estimator lacks {error}: train it again.") from error
    raise ArtefactError(f"The artefact holds an unknown estimator {kind!r}: this release knows head and knn.")
