from __future__ import annotations

import numpy as np
import pytest

from apportion.router.costs import expected_cost
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice, cache_savings

PRICES = (ModelPrice(1.0, 2.0), ModelPrice(10.0, 30.0))


def test_costs_are_tokens_times_price() -> None:
    cost_usd, cost_std_usd = expected_cost([[10, 20]], [[1, 2]], [100], PRICES)
    np.testing.assert_allclose(cost_usd, [[(100 * 1 + 10 * 2) / 1e6, (100 * 10 + 20 * 30) / 1e6]])
    np.testing.assert_allclose(cost_std_usd, [[1 * 2 / 1e6, 2 * 30 / 1e6]])
    per_model, _ = expected_cost([[10, 20]], [[1, 2]], [[100, 50]], PRICES)
    assert per_model[0, 1] == pytest.approx((50 * 10 + 20 * 30) / 1e6)


def lengths(mean: float, std: float, size: int = 400_000) -> np.ndarray:
    variance = np.log1p((std / mean) ** 2)
    return np.random.default_rng(0).lognormal(np.log(mean) - variance / 2, np.sqrt(variance), size)


def test_a_limit_cuts_the_length_off_as_sampling_does() -> None:
    cut = np.minimum(lengths(100, 80), 120)
    cost_usd, cost_std_usd = expected_cost([[100, 100]], [[80, 80]], [0], PRICES, max_output_tokens=[120])
    assert cost_usd[0, 0] * 1e6 / 2 == pytest.approx(cut.mean(), rel=0.01)
    assert cost_std_usd[0, 0] * 1e6 / 2 == pytest.approx(cut.std(), rel=0.01)


def test_each_models_context_cuts_its_own_answers_off() -> None:
    cost_usd, _ = expected_cost([[100, 100]], [[80, 80]], [50], PRICES, max_output_tokens=[150], context=[90, 1e6])
    for column, (price, limit) in enumerate(zip(PRICES, (40, 150), strict=True)):
        answer = (cost_usd[0, column] * 1e6 - 50 * price.input_usd_per_million) / price.output_usd_per_million
        assert answer == pytest.approx(np.minimum(lengths(100, 80), limit).mean(), rel=0.01)
    full, _ = expected_cost([[100, 100]], [[80, 80]], [500], PRICES, context=[90, 90])
    assert full[0, 0] * 1e6 == pytest.approx(500 + 2, rel=1e-3)  # a prompt that does not fit leaves one token


@pytest.mark.parametrize(("least", "limit"), [(60, 120), (60, np.inf), (90, 91), (500, 120)])
def test_an_answer_that_must_be_long_is_filled_up_as_sampling_does(least: float, limit: float) -> None:
    filled = np.minimum(np.maximum(lengths(100, 80), least), limit)
    bounds = {"max_output_tokens": [limit], "min_output_tokens": [least]}
    cost_usd, cost_std_usd = expected_cost([[100, 100]], [[80, 80]], [0], PRICES, **bounds)
    assert cost_usd[0, 0] * 1e6 / 2 == pytest.approx(filled.mean(), rel=0.01)
    assert cost_std_usd[0, 0] * 1e6 / 2 == pytest.approx(filled.std(), rel=0.01, abs=1e-6)
    sure, _ = expected_cost([[4, 400]], [[0, 0]], [0], PRICES, **bounds)
    assert (sure[0, 0] * 1e6 / 2, sure[0, 1] * 1e6 / 30) == pytest.approx((min(least, limit), min(400, limit)))


def test_several_answers_read_the_prompt_once_and_are_independent() -> None:
    one_usd, one_std_usd = expected_cost([[10, 20]], [[1, 2]], [100], PRICES)
    usd, std_usd = expected_cost([[10, 20]], [[1, 2]], [100], PRICES, sequences=[4])
    input_usd = np.array([[100.0, 1000.0]]) / 1e6
    np.testing.assert_allclose(usd, input_usd + 4 * (one_usd - input_usd))
    np.testing.assert_allclose(std_usd, 2 * one_std_usd)


def test_a_generous_limit_changes_nothing_and_a_sure_length_is_cut_exactly() -> None:
    free = expected_cost([[50, 0]], [[10, 0]], [5], PRICES)
    wide = expected_cost([[50, 0]], [[10, 0]], [5], PRICES, max_output_tokens=[1e9])
    np.testing.assert_allclose(wide, free, rtol=1e-6)
    sure = expected_cost([[50, 20]], [[0, 0]], [0], PRICES, max_output_tokens=[30])
    np.testing.assert_allclose(sure[0], [[30 * 2 / 1e6, 20 * 30 / 1e6]], rtol=1e-12)
    mixed = expected_cost([[50, 0], [9, 9]], [[10, 0], [9, 9]], [5, 5], PRICES, max_output_tokens=[np.inf, 3])
    np.testing.assert_array_equal(np.array(mixed)[:, 0], np.array(free)[:, 0])


def test_unknown_lengths_have_unknown_costs() -> None:
    cost_usd, cost_std_usd = expected_cost([[np.nan, 5]], [[np.nan, 1]], [5], PRICES, max_output_tokens=[3])
    assert np.isnan([cost_usd[0, 0], cost_std_usd[0, 0]]).all()
    assert np.isfinite([cost_usd[0, 1], cost_std_usd[0, 1]]).all()


def test_prices_must_make_sense() -> None:
    with pytest.raises(ConfigurationError, match="output_usd_per_million is -1"):
        ModelPrice(1, -1)
    with pytest.raises(ConfigurationError, match="input_usd_per_million is nan"):
        ModelPrice(float("nan"), 1)
    assert ModelPrice(1, 2).cost_usd(1e6, 5e5) == 2.0


def test_cached_input_costs_its_own_price_and_never_more_than_other_input() -> None:
    assert ModelPrice(4, 8, 1).cost_usd(100, 10, cached_tokens=60) == pytest.approx((40 * 4 + 60 * 1 + 80) / 1e6)
    assert ModelPrice(4, 8).cost_usd(100, 10, cached_tokens=60) == ModelPrice(4, 8).cost_usd(100, 10)
    assert ModelPrice(4, 8, 0).cost_usd(100, 0, cached_tokens=100) == 0.0
    with pytest.raises(ConfigurationError, match=r"cached_input_usd_per_million is 5, more than .* 4"):
        ModelPrice(4, 8, 5)
    np.testing.assert_allclose(cache_savings([ModelPrice(4, 8, 1), ModelPrice(4, 8)]), [3e-6, 0])
