from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from apportion.router.estimates import Estimates
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.estimation import RequestEstimator
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.prediction import Prediction
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.training import train_predictor
from apportion.router.prices import ModelPrice
from apportion.router.traits import PLAIN, Traits


@dataclass
class Ask:
    content: Any
    tools: None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    sequences: int = 1
    template_variables: dict[str, Any] = field(default_factory=dict)
    traits: Traits = PLAIN


@dataclass
class Sensitive:
    """A real predictor whose encoder cannot bear one word, or nothing at all."""

    real: Predictor
    poison: str
    calls: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def predict(self, texts: Sequence[str], traits: Sequence[Traits]) -> Prediction:
        self.calls.append(len(texts))
        if any(self.poison in text for text in texts):
            raise RuntimeError(f"cannot encode {texts}")
        return self.real.predict(texts, traits)


@pytest.fixture(scope="module")
def predictor(encoder: Encoder, outcomes: OutcomesTable) -> Predictor:
    return train_predictor(outcomes, encoder, estimator=HeadEstimator(members=2, hidden=8, max_epochs=3))


def estimate(predictor: Any, texts: Sequence[Any]) -> Estimates:
    prices = [ModelPrice(1.0, 2.0)] * len(predictor.models)
    return RequestEstimator(predictor).estimate([Ask(text) for text in texts], prices)


def test_a_text_that_cannot_be_encoded_spoils_no_other(predictor: Predictor) -> None:
    texts = [f"What is {i} plus 7?" for i in range(9)]
    sound = estimate(predictor, texts)
    texts[4] = "poison and secret words"
    sensitive = Sensitive(predictor, "poison")
    found = estimate(sensitive, texts)
    assert list(found.errors) == [4]
    assert "secret" not in found.errors[4].message
    others = [row for row in range(9) if row != 4]
    np.testing.assert_allclose(found.success[others], sound.success[others], rtol=0.01)
    assert sum(sensitive.calls) < 4 * len(texts)


def test_an_answer_that_must_be_long_is_expected_to_be(predictor: Predictor) -> None:
    requests = [Ask("hi"), Ask("hi", max_tokens=900, min_tokens=900), Ask("hi", min_tokens=900, sequences=2)]
    found = RequestEstimator(predictor, context=np.full(len(predictor.models), 500.0)).forecast(requests)
    fits = 500.0 - found.layer("input_tokens")[1]
    assert (found.layer("answered_tokens")[0] < fits).all()
    np.testing.assert_allclose(found.layer("answered_tokens")[1:], [fits, 2 * fits])
    np.testing.assert_array_equal(found.layer("output_tokens")[1:], 900.0)


def test_messages_without_a_role_keep_their_own_words(predictor: Predictor) -> None:
    found = estimate(predictor, ["fine", [{"content": "no role"}]])
    assert "has no role" in found.errors[1].message


def test_a_predictor_that_bears_nothing_is_at_fault_itself(predictor: Predictor) -> None:
    with pytest.raises(RuntimeError):
        estimate(Sensitive(predictor, ""), ["one", "two", "three"])
