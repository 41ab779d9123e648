"""How long models take, learned of answers whose times are known."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.router.drift.speeds import FEWEST, KNOWN_FOR_S, Speeds
from tests.router.batch.plain_room import Clock

BEGIN_S, READ_S, STEP_S, BESIDE_S = 0.05, 1e-4, 0.01, 5e-4


def takes_s(prompt: float, answer: float, running: float) -> float:
    return BEGIN_S + READ_S * prompt + (STEP_S + BESIDE_S * running) * answer


def at(speeds: Speeds, prompt: float, answer: float, running: float) -> float:
    """Of the first model."""
    every = np.full((1, len(speeds.tokens_per_s())), 1.0)
    return float(speeds.seconds(every * prompt, every * answer, every * running)[0, 0])


def answered(speeds: Speeds, rng: np.random.Generator, count: int = 300, *, most_running: int = 64, slower: float = 1):
    for _ in range(count):
        prompt, answer = int(rng.integers(10, 2000)), int(rng.integers(5, 400))
        running = int(rng.integers(1, most_running + 1))
        seconds = slower * takes_s(prompt, answer, running) * rng.lognormal(0, 0.1)
        speeds.learn(0, seconds, prompt_tokens=prompt, answer_tokens=answer, running=running)


def test_load_prompt_and_length_are_told_apart() -> None:
    speeds = Speeds(("a",), Clock())
    answered(speeds, np.random.default_rng(0))
    for asked in ((100, 50, 1), (100, 300, 60), (1500, 20, 30), (1500, 300, 10)):
        assert at(speeds, *asked) == pytest.approx(takes_s(*asked), rel=0.15)


def test_what_was_seen_at_one_load_is_held_against_no_other() -> None:
    speeds = Speeds(("a",), Clock())
    answered(speeds, np.random.default_rng(1), most_running=1)
    alone = at(speeds, 100, 200, 1)
    assert alone == pytest.approx(takes_s(100, 200, 1), rel=0.1)
    assert at(speeds, 100, 200, 64) < 1.1 * alone


def test_nothing_is_said_of_a_model_that_has_hardly_answered() -> None:
    speeds = Speeds(("a", "b"), Clock())
    for number in range(FEWEST):
        assert np.isnan(at(speeds, 10, 10, 1)), number
        speeds.learn(0, 1.0, prompt_tokens=10, answer_tokens=50, running=1)
    assert at(speeds, 10, 50, 1) == pytest.approx(1.0, rel=0.02)
    assert speeds.tokens_per_s() == [pytest.approx(50.0), None]


def test_an_engine_that_became_slower_is_known_soon_and_one_slow_reader_changes_little() -> None:
    speeds, rng = Speeds(("a",), Clock()), np.random.default_rng(2)
    answered(speeds, rng)
    before = at(speeds, 100, 200, 8)
    speeds.learn(0, 3600.0, prompt_tokens=100, answer_tokens=200, running=8)
    answered(speeds, rng, 32)
    assert at(speeds, 100, 200, 8) < 1.1 * before
    answered(speeds, rng, 300, slower=2.5)
    assert at(speeds, 100, 200, 8) > 1.7 * before


def test_what_was_known_long_ago_is_held_against_nobody() -> None:
    clock = Clock()
    speeds, rng = Speeds(("a",), clock), np.random.default_rng(3)
    answered(speeds, rng, slower=10)
    clock.now_s += KNOWN_FOR_S + 1
    assert np.isnan(at(speeds, 100, 200, 8))
    assert speeds.tokens_per_s()[0] is not None, "jobs go by the last that was known"
    answered(speeds, rng, 10)
    assert at(speeds, 100, 200, 8) < 3 * takes_s(100, 200, 8), "it starts anew"


def test_answers_side_by_side_count_for_one_in_time_and_for_all_in_tokens() -> None:
    speeds = Speeds(("a",), Clock())
    for _ in range(5):
        speeds.learn(0, 1.0, prompt_tokens=10, answer_tokens=200, running=4, answers=4)
    assert at(speeds, 10, 50, 4) == pytest.approx(1.0, rel=0.02)
    assert speeds.tokens_per_s() == [pytest.approx(200.0, rel=0.02)]


def test_variants_of_a_model_have_the_speed_of_its_engines() -> None:
    speeds = Speeds(("qwen@fast", "small", "qwen@think"), Clock())
    for column in (0, 2, 0):
        speeds.learn(column, 1.0, prompt_tokens=10, answer_tokens=50, running=1)
    one = np.ones((1, 3))
    np.testing.assert_allclose(speeds.seconds(10 * one, 50 * one, one), [[1.0, np.nan, 1.0]], rtol=0.02)
    assert speeds.tokens_per_s() == [pytest.approx(50.0, rel=0.02), None, pytest.approx(50.0, rel=0.02)]
