"""Pacers and the ways to solve a batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from apportion.router.budget.pacing import WindowState
from benchmarks.experiments.pacers import FixedPrice
from benchmarks.experiments.solving import FULL, Answer, apart, batch, certified

RNG = np.random.default_rng(0)
SUCCESS = np.sort(RNG.random((400, 3)), axis=1)
COST = np.array([1.0, 3.0, 9.0]) * RNG.uniform(0.5, 1.5, (400, 1))


def test_a_fixed_price_buys_what_is_worth_it_while_money_lasts() -> None:
    state = WindowState(budget_usd=1000, committed_usd=0, starts=0, ends=400, now=0)
    spent = [FixedPrice(price).allowance_usd(SUCCESS, COST, state) for price in (1e9, 0.05, 0.0)]
    assert spent[0] == pytest.approx(COST.min(axis=1).sum())
    assert spent[0] < spent[1] < COST[:, 2].sum()
    assert spent[2] == 1000
    assert FixedPrice(0.05).allowance_usd(SUCCESS, COST, replace(state, committed_usd=990)) == 10


@pytest.mark.parametrize("limits", ["budget", "budget and slots", "slots"])
@pytest.mark.parametrize("method", list(FULL))
def test_full_models_agree_with_the_certified_solver(limits: str, method: str) -> None:
    problem = batch(40, 4, limits, seed=5)
    full, ours = FULL[method](problem, 20.0), certified(problem)
    assert full.finished
    assert ours.finished
    assert full.objective == pytest.approx(ours.objective, rel=2.1e-4)


def test_a_solve_apart_is_timed_and_its_memory_measured() -> None:
    def hungry() -> Answer:
        block = np.ones(60 * 2**17)
        return Answer(float(block[0]), 0.0, True)

    once = apart(hungry)
    assert once.answer.objective == 1
    assert 50 < once.extra_mib < 90
    assert apart(partial(certified, batch(16, 3, "budget", 0))).wall_s > 0


def test_a_solve_that_overlooks_its_limit_is_ended() -> None:
    def endless() -> Answer:
        while True:
            pass

    once = apart(endless, 0.3)
    assert not once.answer.finished
    assert once.answer.gap == np.inf
    assert 0.25 < once.wall_s < 20
    assert once.cpu_s > 0


def test_a_solve_that_ends_without_an_answer_is_an_error() -> None:
    def fails() -> Answer:
        raise SystemExit

    with pytest.raises(RuntimeError, match="ended without an answer"):
        apart(fails)
