"""What is expected of requests, on its way from where it is made to where it is priced."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from apportion.router.costs import expected_cost
from apportion.router.errors import InvalidRequestError
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import LAYERS, Unpriced, concatenate, gathered

MODELS = ("a", "b", "c")
PRICES = [ModelPrice(price, 2 * price) for price in (1.0, 3.0, 10.0)]


def forecast(n: int = 6, members: int = 4, seed: int = 0) -> Unpriced:
    rng = np.random.default_rng(seed)
    return Unpriced(
        MODELS,
        rng.random((len(LAYERS), n, len(MODELS))),
        success_samples=rng.random((members, n, len(MODELS))),
        errors={1: InvalidRequestError("unreadable")},
        refusals={2: {0: "no system turns"}},
        guessed=frozenset({3}),
    )


def same(one: Unpriced, other: Unpriced) -> bool:
    assert one.success_samples is not None
    assert other.success_samples is not None
    np.testing.assert_array_equal(one.table, other.table)
    np.testing.assert_array_equal(one.success_samples, other.success_samples)
    return (one.models, one.errors, one.refusals, one.guessed) == (
        other.models,
        other.errors,
        other.refusals,
        other.guessed,
    )


def test_rows_and_concatenate_are_each_others_inverse() -> None:
    whole = forecast()
    parts = [whole.rows([0, 1]), whole.rows(np.array([2])), whole.rows([3, 4, 5])]
    assert same(concatenate(parts), whole)
    assert same(gathered([(parts[2], 0), (parts[0], 1), (parts[2], 2)]), whole.rows([3, 1, 5]))
    assert whole.rows([5, 1]).errors.keys() == {1}


def test_samples_and_lifts_survive_where_they_can() -> None:
    bare, other = replace(forecast(), success_samples=None), replace(forecast(), success_samples=np.zeros((7, 6, 3)))
    assert concatenate([forecast(), bare]).success_samples is None
    assert concatenate([forecast(), other]).success_samples is None
    assert concatenate([forecast(), bare]).calibrated_success is None
    lifted = replace(forecast(), calibrated_success=np.zeros((6, 3)))
    before = concatenate([forecast(), lifted]).calibrated_success
    assert before is not None
    np.testing.assert_array_equal(before, np.concatenate([forecast().layer("success"), np.zeros((6, 3))]))


def test_the_price_is_that_of_the_one_formula() -> None:
    rng = np.random.default_rng(1)
    whole = forecast()
    lengths = {"output_tokens": rng.random((6, 3)), "output_tokens_std": rng.random((6, 3))}
    counts = rng.random((6, 3))
    cost_usd, cost_std_usd = expected_cost(lengths["output_tokens"], lengths["output_tokens_std"], counts, PRICES)
    whole.table[[LAYERS.index(name) for name in ("input_tokens", "answered_tokens", "answered_tokens_std")]] = [
        counts,
        *lengths.values(),
    ]
    priced = whole.priced(PRICES)
    np.testing.assert_array_equal(priced.cost_usd, cost_usd)
    np.testing.assert_array_equal(priced.cost_std_usd, cost_std_usd)
    assert priced.predicted.tolist() == [True, True, True, False, True, True]
    assert priced.errors.keys() == {1}


def test_what_planning_needs_is_some_hundred_bytes_a_request() -> None:
    brief = forecast(200).brief(samples=False)
    assert (len(pickle.dumps(brief)) - len(pickle.dumps(brief.rows(range(100))))) / 100 < 30 * len(MODELS)
    np.testing.assert_allclose(brief.table, forecast(200).table, rtol=1e-7)
    assert brief.success_samples is None
    assert forecast().brief(samples=True).success_samples is not None


def test_what_was_predicted_before_the_lift_comes_to_who_compares_it_with_what_happens() -> None:
    lifted = replace(forecast(), calibrated_success=np.full((6, 3), 0.25))
    priced = lifted.brief(samples=False).priced(PRICES)
    np.testing.assert_array_equal(priced.before_lift(), np.full((6, 3), 0.25))


def test_shapes_and_numbers_are_checked() -> None:
    forecast().check(MODELS, 6)
    for wrong in (forecast(5), replace(forecast(), models=("b", "a", "c")), replace(forecast(), table=np.ones((6, 6)))):
        with pytest.raises(ValueError, match="nobody asked for"):
            wrong.check(MODELS, 6)
    with pytest.raises(ValueError, match="not finite"):
        replace(forecast(), table=np.full((len(LAYERS), 6, 3), np.nan)).check(MODELS, 6)


def test_models_go_by_their_names_while_a_deploy_changes_them() -> None:
    whole = forecast()
    other = whole.of_models(("c", "new", "a"))
    np.testing.assert_array_equal(other.layer("success")[:, [0, 2]], whole.layer("success")[:, [2, 0]])
    assert other.refusals[2] == {2: "no system turns", 1: "is being deployed; try again in some seconds"}
    assert other.priced(PRICES).readable()[0].tolist() == [True, False, True]
    assert list(other.errors) == [1]
    assert whole.of_models(MODELS) is whole
    turned = whole.of_models(("c", "b", "a"))
    assert turned.refusals == {2: {2: "no system turns"}}
    strange = whole.of_models(("x", "y"))
    assert {error.status for error in strange.errors.values()} == {503}
    assert len(strange.errors) == 6
