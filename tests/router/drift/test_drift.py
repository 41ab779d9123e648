"""Drift on numbers whose truth is known: lengths, chances, and what is asked."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.router.costs import corrected_cost, expected_cost
from apportion.router.drift.judged import REMEMBERED, WINDOW, Judged
from apportion.router.drift.lengths import HIGHEST, LOWEST, PRIOR, TOKENS_PER_BYTE, Lengths, Ratios
from apportion.router.drift.shift import FEWEST, Reference, Shift
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice

PRICES = [ModelPrice(1.0, 10.0), ModelPrice(2.0, 0.0)]


def test_ratios_find_how_long_answers_are_and_follow_when_that_changes() -> None:
    random, ratios = np.random.default_rng(0), Ratios(2)
    for factor in (1.3, 0.7):
        for _ in range(3000):
            expected = random.uniform(10, 200)
            ratios.learn(0, factor * expected * random.lognormal(-0.08, 0.4), expected)
        np.testing.assert_allclose(ratios.values, [factor, 1.0], atol=0.06)


def test_few_answers_change_little_and_none_changes_more_than_it_may() -> None:
    ratios = Ratios(1)
    ratios.learn(0, 1e9, 1.0)
    assert ratios.bounded == [HIGHEST]
    ratios = Ratios(1)
    ratios.learn(0, 40.0, 20.0)
    assert ratios.values.tolist() == pytest.approx([1 + 1 / (1 + PRIOR)])
    for _ in range(1000):
        ratios.learn(0, 0.0, 20.0)
    assert ratios.bounded == [LOWEST]


def test_prompts_that_are_counted_as_bytes_cost_as_many_tokens_as_their_last_ones_had() -> None:
    lengths = Lengths.of([False, True])
    np.testing.assert_array_equal(lengths.prompts.bounded, [1.0, TOKENS_PER_BYTE])
    for _ in range(2000):
        lengths.prompts.learn(1, 250.0, 1000.0)
    np.testing.assert_allclose(lengths.prompts.bounded, [1.0, 0.25], atol=0.01)
    counts, tokens = np.array([[100.0, 1000.0]]), np.array([[10.0, 10.0]])
    cost_usd, _ = expected_cost(tokens, 0 * tokens, counts, PRICES)
    one = Estimates(np.ones((1, 2)), cost_usd, counts, tokens)
    found = one.corrected(PRICES, np.ones(2), np.array([np.inf]), lengths.prompts.bounded)
    expected_usd, _ = expected_cost(tokens, 0 * tokens, counts * lengths.prompts.bounded, PRICES)
    np.testing.assert_allclose(found.cost_usd, expected_usd)
    np.testing.assert_array_equal(found.input_tokens, counts)  # the most, which is set aside and has to fit
    np.testing.assert_allclose(found.expected_input, counts * lengths.prompts.bounded)


def test_the_corrected_cost_is_that_of_answers_that_are_so_much_longer() -> None:
    tokens, counts = np.array([[100.0, 50.0], [100.0, 50.0]]), np.array([[7.0, 8.0], [7.0, 8.0]])
    std, ratios, most = 0.1 * tokens, np.array([1.5, 0.5]), np.array([np.inf, 120.0])
    cost_usd, cost_std_usd = expected_cost(tokens, std, counts, PRICES)
    found_usd, found_std_usd = corrected_cost(cost_usd, cost_std_usd, counts, PRICES, ratios, most[:, None])
    true_usd, true_std_usd = expected_cost(tokens * ratios, std * ratios, counts, PRICES)

    np.testing.assert_allclose(found_usd[0], true_usd[0])
    np.testing.assert_allclose(found_std_usd, true_std_usd)
    assert found_usd[1, 0] == pytest.approx((7 * 1 + 120 * 10) / 1e6)  # no answer is longer than it may be
    least_usd, _ = corrected_cost(
        cost_usd, cost_std_usd, counts, PRICES, ratios, most[:, None], least_tokens=np.array([[40.0], [60.0]])
    )
    input_usd = 8 * PRICES[1].input_usd_per_million / 1e6
    per_token_usd = PRICES[1].output_usd_per_million / 1e6
    np.testing.assert_allclose(least_usd[:, 1], input_usd + np.array([40.0, 50.0]) * per_token_usd)


def test_without_drift_costs_stay_to_the_bit_and_what_was_expected_is_kept() -> None:
    cost_usd, counts = np.array([[1e-5, 4e-6]]), np.array([[3.0, 2.0]])
    one = Estimates(np.full((1, 2), 0.5), cost_usd, counts, np.full((1, 2), 1.0))

    same = one.corrected(PRICES, np.ones(2), np.array([np.inf]))
    np.testing.assert_allclose(same.cost_usd, cost_usd, rtol=1e-15)
    assert same.cost_std_usd is None
    assert one.corrected(PRICES, np.full(2, 2.0), np.array([np.inf])).uncorrected_usd is cost_usd


def judged(expected: float, good: float, n: int, seed: int = 0) -> Judged:
    random, found = np.random.default_rng(seed), Judged(2)
    for i in range(n):
        found.answered(f"a{i}", 1, expected)
        found.judge(f"a{i}", float(random.random() < good))
    return found


def test_what_is_as_good_as_expected_does_not_stand_out_and_what_is_worse_does() -> None:
    deviations = [judged(0.7, 0.7, 500, seed).gaps().deviations[1] for seed in range(200)]
    assert np.std(deviations) == pytest.approx(1.0, abs=0.15)
    gaps = judged(0.7, 0.5, 500).gaps()
    assert gaps.deviations[1] < -6
    assert (gaps.judged.tolist(), gaps.expected[1]) == ([0, 500], pytest.approx(0.7))
    assert np.isnan(gaps.scores[0])
    assert gaps.deviations[0] == 0


def test_the_last_word_counts_once() -> None:
    found = Judged(1)
    for name in ("a", "b", "c"):
        found.answered(name, 0, 0.5)
    for name, score in (("a", 0.0), ("a", 1.0), ("b", 1.0), ("b", None), ("c", None), ("unknown", 1.0)):
        found.judge(name, score)

    assert (found.gaps().judged[0], found.gaps().scores[0]) == (1, 1.0)
    found.judge("b", 0.0)
    assert found.gaps().scores[0] == 0.5


def test_memory_of_answers_is_bounded() -> None:
    found = Judged(1)
    for i in range(REMEMBERED + 10):
        found.answered(f"a{i}", 0, 0.5)
    for i in range(REMEMBERED + 10):
        found.judge(f"a{i}", 1.0)

    assert found.gaps().judged[0] == WINDOW
    assert len(found._open) == REMEMBERED


def predictions(n: int, mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(8 * mean, 8 * (1 - mean), (n, 2))


def test_the_same_requests_have_not_shifted_and_others_have() -> None:
    reference = Reference.of(predictions(700, 0.6))
    same, others = Shift(2), Shift(2)
    for row, other in zip(predictions(1500, 0.6, 1), predictions(1500, 0.4, 2), strict=True):
        same.see(row)
        others.see(other)

    assert (same.index(reference, (0, 1)) < 0.06).all()
    assert (others.index(reference, (0, 1)) > 0.25).all()
    np.testing.assert_allclose(others.means, 0.4, atol=0.02)


def test_predictions_that_are_all_alike_have_not_shifted_either() -> None:
    reference = Reference.of(np.full((100, 1), 0.3))

    assert reference.index(np.full((50, 1), 0.3)) == [0.0]
    assert reference.index(np.full((50, 1), 0.1))[0] > 1


def test_too_few_requests_say_nothing() -> None:
    shift, reference = Shift(2), Reference.of(predictions(100, 0.5))
    for row in predictions(FEWEST - 1, 0.5):
        assert shift.index(reference, (0, 1)) is None
        shift.see(row)
    shift.see(np.array([0.5, 0.5]))
    assert shift.index(reference, (0, 1)) is not None
