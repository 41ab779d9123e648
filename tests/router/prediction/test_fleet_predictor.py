"""A fleet with models that the predictor has no outcomes of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apportion.router.assignment import Mip, RobustMip, assign
from apportion.router.errors import ArtefactError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.estimation import RequestEstimator
from apportion.router.prediction.fleet_predictor import FleetPredictor
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.training import train_predictor
from apportion.router.prices import ModelPrice
from apportion.router.traits import PLAIN, Traits
from tests.samples import make_outcomes

TEXTS = make_outcomes(40, seed=3).prompts


@dataclass
class Ask:
    content: str
    tools: None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    sequences: int = 1
    template_variables: dict[str, Any] = field(default_factory=dict)
    traits: Traits = PLAIN


@pytest.fixture(scope="module")
def predictor(encoder: Encoder, outcomes: OutcomesTable) -> Predictor:
    return train_predictor(outcomes, encoder, estimator=HeadEstimator(members=3, hidden=8, max_epochs=10))


@pytest.fixture
def artefact(predictor: Predictor, tmp_path: Path) -> Path:
    predictor.save(tmp_path)
    return tmp_path


def test_known_models_keep_their_columns_whatever_the_order(predictor: Predictor, artefact: Path) -> None:
    """`medium`, which the artefact knows, is not in the fleet."""
    fleet = FleetPredictor.load(artefact, {"large": None, "new": 0.7, "small": None}, device="cpu")
    alone = Predictor.load(artefact, models=["large", "small"], device="cpu").predict(TEXTS)
    found = fleet.predict(TEXTS)
    assert fleet.models == ("large", "new", "small")
    for name in ("success", "success_std", "output_tokens", "output_tokens_std", "calibrated_success"):
        np.testing.assert_array_equal(getattr(found, name)[:, [0, 2]], getattr(alone, name))
    np.testing.assert_array_equal(found.success_samples[:, :, [0, 2]], alone.success_samples)


def test_a_model_without_outcomes_has_the_stated_success_and_no_shorter_answers_or_surer_members_than_others(
    artefact: Path,
) -> None:
    priors = {"new": 0.7, "small": None, "medium": None, "large": None, "other": None}
    found = FleetPredictor.load(artefact, priors, device="cpu").predict(TEXTS)
    assert (found.success[:, 0] == 0.7).all()
    assert (found.success[:, 4] == 0.0).all()
    np.testing.assert_allclose(found.success_std[:, 0], found.success_std[:, 1:4].max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.success_samples[:, :, 0].std(axis=0), found.success_std[:, 0])
    np.testing.assert_array_equal(found.output_tokens[:, 0], found.output_tokens[:, 1:4].max(axis=1))
    np.testing.assert_array_equal(found.output_tokens_std[:, 0], found.output_tokens_std[:, 1:4].max(axis=1))
    assert found.success_samples.min() >= 0
    assert found.success_samples.max() <= 1


def test_estimates_and_robust_plans_take_every_column(artefact: Path) -> None:
    """The stated success is spread as the others' is, so that no robust plan takes the unknown for sure."""
    fleet = FleetPredictor.load(artefact, {"small": None, "new": 0.99, "large": None}, device="cpu")
    prices = [ModelPrice(1, 1), ModelPrice(2, 2), ModelPrice(4, 4)]
    forecast = RequestEstimator(fleet, context=np.array([64.0, 8.0, 64.0])).forecast([Ask(t) for t in TEXTS])
    forecast.check(("small", "new", "large"), len(TEXTS))
    assert not forecast.errors
    estimates = forecast.priced(prices)
    assert (estimates.cost_usd[:, 1] > 0).all()
    slots = np.full(3, len(TEXTS))
    certain = assign(estimates.problem(slots), Mip())
    assert (certain.model == 1).all()
    assert assign(estimates.problem(slots, with_samples=True), RobustMip()).model.shape == (len(TEXTS),)


def test_a_fleet_of_which_nothing_is_known_is_refused(artefact: Path) -> None:
    with pytest.raises(ArtefactError, match="none of its models"):
        FleetPredictor.load(artefact, {"new": 0.7}, device="cpu")
