from __future__ import annotations

import numpy as np
import pytest

from apportion.router.errors import ConfigurationError
from apportion.router.prediction.prediction import Prediction
from apportion.router.prices import ModelPrice

PRICES = (ModelPrice(1.0, 2.0), ModelPrice(10.0, 30.0))


def _prediction(tokens: list[list[float]], std: list[list[float]]) -> Prediction:
    return Prediction.from_samples(np.full((2, len(tokens), 2), 0.5), tokens, std)


def test_costs_are_tokens_times_price() -> None:
    cost_usd, cost_std_usd = _prediction([[10, 20]], [[1, 2]]).cost_usd([100], PRICES)
    np.testing.assert_allclose(cost_usd, [[(100 * 1 + 10 * 2) / 1e6, (100 * 10 + 20 * 30) / 1e6]])
    np.testing.assert_allclose(cost_std_usd, [[1 * 2 / 1e6, 2 * 30 / 1e6]])
    per_model, _ = _prediction([[10, 20]], [[1, 2]]).cost_usd([[100, 50]], PRICES)
    assert per_model[0, 1] == pytest.approx((50 * 10 + 20 * 30) / 1e6)


def test_a_limit_cuts_the_length_off_as_sampling_does() -> None:
    mean, std, limit = 100.0, 80.0, 120.0
    variance = np.log1p((std / mean) ** 2)
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - variance / 2, np.sqrt(variance), 400_000)
    cut = np.minimum(drawn, limit)
    cost_usd, cost_std_usd = _prediction([[mean, mean]], [[std, std]]).cost_usd([0], PRICES, [limit])
    assert cost_usd[0, 0] * 1e6 / 2 == pytest.approx(cut.mean(), rel=0.01)
    assert cost_std_usd[0, 0] * 1e6 / 2 == pytest.approx(cut.std(), rel=0.01)


def test_a_generous_limit_changes_nothing_and_a_sure_length_is_cut_exactly() -> None:
    prediction = _prediction([[50, 0]], [[10, 0]])
    free = prediction.cost_usd([5], PRICES)
    wide = prediction.cost_usd([5], PRICES, [1e9])
    np.testing.assert_allclose(wide, free, rtol=1e-6)
    sure = _prediction([[50, 20]], [[0, 0]]).cost_usd([0], PRICES, [30])
    np.testing.assert_allclose(sure[0], [[30 * 2 / 1e6, 20 * 30 / 1e6]], rtol=1e-5)
    unlimited = prediction.cost_usd([5], PRICES, [np.inf])
    np.testing.assert_allclose(unlimited, free, rtol=1e-6)


def test_prices_must_make_sense() -> None:
    with pytest.raises(ConfigurationError, match="output_usd_per_million is -1"):
        ModelPrice(1, -1)
    with pytest.raises(ConfigurationError, match="input_usd_per_million is nan"):
        ModelPrice(float("nan"), 1)
    assert ModelPrice(1, 2).cost_usd(1e6, 5e5) == 2.0
