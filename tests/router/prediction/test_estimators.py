"""The registry of estimators."""

from __future__ import annotations

import pytest

from apportion.router.errors import ConfigurationError
from apportion.router.prediction.baselines import BoostedTreesEstimator, LogisticEstimator
from apportion.router.prediction.estimators import ESTIMATORS, described, estimator, storable
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.knn import KnnEstimator


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("head", HeadEstimator()),
        ("knn", KnnEstimator(40)),
        ("knn-40", KnnEstimator(40)),
        ("knn-5", KnnEstimator(5)),
        ("trees", BoostedTreesEstimator(members=4)),
        ("logistic", LogisticEstimator(members=4)),
    ],
)
def test_a_name_stands_for_a_recipe(name: str, recipe: object) -> None:
    assert estimator(name) == recipe


def test_settings_stand_above_those_of_the_name() -> None:
    assert estimator("knn-5", members=2) == KnnEstimator(5, members=2)
    assert estimator("trees", members=1) == BoostedTreesEstimator(members=1)
    with pytest.raises(ConfigurationError, match="k: the estimator head has no such setting"):
        storable("head", k=3)


@pytest.mark.parametrize("name", ["gpt", "head-3", "knn-0", "knn-x", ""])
def test_an_unknown_name_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is unknown: use one of head") as caught:
        estimator(name)
    assert all(known in caught.value.message for known in ESTIMATORS)


def test_a_baseline_cannot_be_trained_for_an_artefact() -> None:
    with pytest.raises(ConfigurationError, match="a baseline that no artefact holds: use one of head"):
        storable("trees")
    assert "trees" not in described(stored_only=True)


@pytest.mark.parametrize("name", [name for name, entry in ESTIMATORS.items() if entry.fitted])
def test_a_stored_kind_is_the_name_in_the_registry(name: str) -> None:
    from apportion.router.prediction.estimators import _class

    assert _class(ESTIMATORS[name].fitted or "").kind == name
