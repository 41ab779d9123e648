"""Signals: four numbers of an answer's tokens, as an array and as a text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apportion.router.errors import InvalidRequestError
from apportion.router.signals import (
    LEAST_LOGPROB,
    SIGNALS,
    Signals,
    parse_signals,
    signals_array,
    signals_of,
    wrong_signals,
)


def test_the_four_numbers_are_what_their_names_say() -> None:
    logprobs = -np.arange(11.0)
    assert signals_of(logprobs, np.full(11, 2.5)) == Signals(-5.0, -10.0, -9.0, 2.5)
    assert SIGNALS == ("mean_logprob", "min_logprob", "low_logprob", "mean_margin")


def test_an_answer_of_no_tokens_has_none() -> None:
    assert signals_of([], []) is None


def test_what_a_grammar_rules_out_counts_as_hardly_likely() -> None:
    assert signals_of([-math.inf, 0.0], [math.inf, 0.0]) == Signals(LEAST_LOGPROB / 2, LEAST_LOGPROB, -45.0, 25.0)


@pytest.mark.parametrize("count", range(1, 40))
def test_rounding_takes_no_mean_below_the_least(count: int) -> None:
    found = signals_of(np.full(count, -0.1), np.full(count, 0.1))
    assert found is not None
    assert not wrong_signals(np.array([found])).any()
    assert parse_signals(found.text) == pytest.approx(found)


def test_texts_and_arrays_keep_them() -> None:
    found = signals_of(np.random.default_rng(0).uniform(-9, 0, 30), np.random.default_rng(1).uniform(0, 9, 30))
    assert found is not None
    assert parse_signals(found.text) == pytest.approx(found, rel=1e-5)
    np.testing.assert_array_equal(signals_array([found, None]), [found, [np.nan] * 4])
    assert signals_array([]).shape == (0, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1 -2 -1",
        "-1 -2 -1 1 1",
        "-1 -2 -1 x",
        "-1 -2 -1 nan",
        "-1 -inf -1 1",
        "1 -2 -1 1",
        "-2 -1 -1 1",
        "-1 -2 -1 -1",
    ],
)
def test_what_is_no_answers_signals_is_told(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"signals: .* write four finite numbers"):
        parse_signals(text)
