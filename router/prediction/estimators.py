"""The registry of estimators: what `train` and `evaluate` take by name, and what an artefact may hold.

To add one, write its module and add a line to `ESTIMATORS`. A class is imported when it is first used, so that
listing the names loads neither torch nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from apportion.router.errors import ArtefactError, ConfigurationError

if TYPE_CHECKING:
    from apportion.router.prediction.artefact import Arrays
    from apportion.router.prediction.estimator import Estimator, FittedEstimator, GrowingEstimator, StorableEstimator


@dataclass(frozen=True)
class Entry:
    """One estimator.

    Args:
        help: what it is, in a few words.
        recipe: `module:Class` of the recipe, a dataclass of settings, in `apportion.router.prediction`.
        fitted: the same of what an artefact holds; None: the estimator is a baseline that no artefact holds.
        settings: of the recipe, where its own defaults do not stand.
        number: the setting that a number behind the name gives, as in `knn-5`.
    """

    help: str
    recipe: str
    fitted: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    number: str | None = None


ESTIMATORS: dict[str, Entry] = {
    "head": Entry("an ensemble of small networks", "head_training:HeadEstimator", "head:Head"),
    "knn": Entry("nearest neighbours, untrained", "knn:KnnEstimator", "knn:Neighbours", number="k"),
    "trees": Entry("boosted trees", "baselines:BoostedTreesEstimator", settings={"members": 4}),
    "logistic": Entry("logistic regressions", "baselines:LogisticEstimator", settings={"members": 4}),
}


def estimator(name: str, **settings: Any) -> Estimator[FittedEstimator]:
    """The recipe of this name, `knn-5` being `knn` with k = 5; `settings` stand above the registry's.

    Raises ConfigurationError for an unknown name or setting, listing the known.
    """
    kind, _, number = name.partition("-")
    entry = ESTIMATORS.get(kind)
    if entry is None or (number and (entry.number is None or not number.isdigit() or int(number) < 1)):
        raise ConfigurationError(f"estimator {name!r} is unknown: use one of {described()}")
    recipe = _class(entry.recipe)
    known = [setting.name for setting in fields(recipe)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ConfigurationError(f"{unknown[0]}: the estimator {kind} has no such setting, it has {', '.join(known)}")
    numbered = {entry.number: int(number)} if entry.number and number else {}
    made: Estimator[FittedEstimator] = recipe(**{**entry.settings, **numbered, **settings})
    return made


def storable(name: str, **settings: Any) -> GrowingEstimator:
    """The recipe of this name, as `estimator` gives it, if an artefact can hold what it fits.

    Raises ConfigurationError for any other name.
    """
    entry = ESTIMATORS.get(name.partition("-")[0])
    if entry is not None and entry.fitted is None:
        raise ConfigurationError(
            f"estimator {name!r} is a baseline that no artefact holds: use one of {described(True)}"
        )
    recipe: Any = estimator(name, **settings)
    made: GrowingEstimator = recipe
    return made


def described(stored_only: bool = False) -> str:
    """All estimators with what they are, or those that an artefact can hold, for help texts and errors."""
    entries = {name: entry for name, entry in ESTIMATORS.items() if entry.fitted or not stored_only}
    return "; ".join(f"{_spelt(name, entry)} ({entry.help})" for name, entry in entries.items())


def restore(
    kind: str, models: tuple[str, ...], arrays: Arrays, settings: dict[str, int | float], device: str
) -> StorableEstimator:
    """The fitted estimator of an artefact's arrays and settings.

    Raises ArtefactError when the kind is unknown or they do not make one.
    """
    stored = {name: entry.fitted for name, entry in ESTIMATORS.items() if entry.fitted}
    if kind not in stored:
        raise ArtefactError(f"estimator {kind!r} in the artefact is unknown: this release knows {', '.join(stored)}")
    try:
        made: StorableEstimator = _class(stored[kind]).restore(models, arrays, settings, device)
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"the artefact's {kind} estimator lacks {error}: train it again") from error
    return made


def _spelt(name: str, entry: Entry) -> str:
    return name if entry.number is None else f"{name} or {name}-{entry.number.upper()}"


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"apportion.router.prediction.{module}"), name)
