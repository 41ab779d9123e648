"""What the predictor's artefact knows of the models that are served, and what holds for those it does not know."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apportion.deployments.config.service import ServiceConfig
from apportion.router.arrays import FloatArray
from apportion.router.cascade.pair import Pair
from apportion.router.drift.shift import Reference
from apportion.router.errors import ArtefactError
from apportion.router.prediction.artefact import Arrays, Description, read_artefact
from apportion.router.prediction.encoders import check_place
from apportion.router.prediction.static_encoder import PREFIX as STATIC


@dataclass(frozen=True, eq=False)
class KnownReference:
    """How success was predicted for the rows that calibrated the artefact, for those of its models that are served.

    `columns` are theirs among all that are served.
    """

    reference: Reference
    columns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """How well models answer, as far as it is known before any request is read.

    `mean_success` (M,) is each model's in its training data, or what is stated for it, or 0: what is left to plan with
    without a predictor. `known` are the served models that the artefact predicts, `by_name_only` those of which nobody
    says anything. `notices` tell people of every
    model that is served and not known, or known and not served, and of a GPU that has nothing to do. `reference` is
    what predictions are compared with; None: the artefact does not say. `cascades` are the pairs of served models that
    are proved to gain by asking one after the other.
    """

    mean_success: FloatArray
    by_name_only: frozenset[str]
    notices: tuple[str, ...]
    known: tuple[str, ...]
    reference: KnownReference | None = None
    cascades: tuple[Pair, ...] = ()

    @classmethod
    def of(cls, config: ServiceConfig) -> Knowledge:
        """Reads the artefact.

        Raises:
            ArtefactError: it is missing or damaged, knows none of the models, knows a model and not its variants, or
                has no use for the encoder that is given.
        """
        description, arrays = read_artefact(Path(config.predictor.artefact_path))
        check_place(description.encoder, config.predictor.encoder)
        means = {model.name: model.mean_success for model in description.models}
        unknown = [column for column in config.columns if column.name not in means]
        if len(unknown) == len(config.names):
            raise ArtefactError(
                f"the predictor at {config.predictor.artefact} was trained for {', '.join(means)}; the configuration "
                f"has {', '.join(config.names)}: train it for one of these at least, or correct the names"
            )
        _check_variants(config, means)
        stated = {column.name: column.prior_success or 0.0 for column in unknown}
        cascades = _cascades(config, description, arrays)
        return cls(
            np.array([(means | stated)[name] for name in config.names]),
            frozenset(column.name for column in unknown if column.prior_success is None),
            (
                *_notices(config, means),
                *_idle_gpu(config, description.encoder.source),
                *_no_cascades(config, cascades),
            ),
            tuple(name for name in config.names if name in means),
            _reference(config, description),
            cascades,
        )


def check_same(known: Sequence[str], others: Sequence[str], artefact: str) -> None:
    """Raises: ArtefactError: an artefact cannot take another's place, since it predicts other models of the fleet."""
    if tuple(known) != tuple(others):
        raise ArtefactError(
            f"artefact {artefact}: of the models that are served it knows {', '.join(others)}, the one in whose place "
            f"it is to be {', '.join(known)}; name it as predictor.artefact and deploy anew"
        )


def _check_variants(config: ServiceConfig, known: Collection[str]) -> None:
    """Raises: ArtefactError: a model is known as it is without variants, of which nobody says anything."""
    for model in config.models:
        unsaid = [one.name for one in model.columns if one.name not in known and one.prior_success is None]
        if model.variants and model.name in known and unsaid:
            raise ArtefactError(
                f"models.{model.name}.variants: the predictor at {config.predictor.artefact} knows {model.name} and "
                f"not {', '.join(unsaid)}; train it on outcomes with these columns, or state their prior_success"
            )


def _reference(config: ServiceConfig, description: Description) -> KnownReference | None:
    if description.reference is None:
        return None
    served = [(column, name) for column, name in enumerate(config.names) if name in description.names]
    chosen = description.reference.reference.select([description.names.index(name) for _, name in served])
    return KnownReference(chosen, tuple(column for column, _ in served))


def _cascades(config: ServiceConfig, description: Description, arrays: Arrays) -> tuple[Pair, ...]:
    """Pairs of models that are served."""
    if description.cascades is None or not any(trial.offered for trial in description.cascades.trials):
        return ()
    # Here, not above: it imports pandas, which a service without cascades need not.
    from apportion.router.prediction.cascading import restored_gate

    known = [name for name in config.names if name in description.names]
    gate = restored_gate(description.cascades, arrays, known)
    return () if gate is None else gate.pairs


def _no_cascades(config: ServiceConfig, cascades: Sequence[Pair]) -> tuple[str, ...]:
    if not config.routing.cascade or cascades:
        return ()
    return (
        "routing.cascade: the predictor's artefact proves of no pair of served models that a cascade gains, so nothing "
        "changes; train it on outcomes with signals, or set false",
    )


def _notices(config: ServiceConfig, means: dict[str, float]) -> tuple[str, ...]:
    told = []
    for model in config.columns:
        prior = model.prior_success
        if model.name in means and prior is not None:
            told.append(f"{model.name}: the predictor knows it, so its prior_success {prior:g} is not used; remove it")
        elif model.name not in means and prior is not None:
            told.append(f"{model.name}: the predictor does not know it; it is routed by its prior_success {prior:g}")
        elif model.all_capabilities.embeddings:
            told.append(f"{model.name}: it makes embeddings; only /v1/embeddings asks it")
        elif model.name not in means:
            told.append(
                f"{model.name}: the predictor does not know it; only requests that name it go there, until the "
                "predictor is trained on outcomes of it or its prior_success is stated"
            )
    left = [name for name in means if name not in config.names]
    if left:
        told.append(f"the predictor knows {', '.join(left)} too, which the configuration does not serve")
    return tuple(told)


def _idle_gpu(config: ServiceConfig, encoder: str) -> tuple[str, ...]:
    if config.predictor.num_gpus == 0 or not encoder.startswith(STATIC):
        return ()
    return (f"predictor.num_gpus: {encoder} has no use for a GPU; set 0, or train the predictor with a transformer",)
