"""Pacers and the ways to solve a batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from benchmarks.quality.pacers import CarryOver, FixedPrice, PerBatch, ShadowPrice, Window, batch_price
from benchmarks.quality.solving import FULL, Answer, apart, batch, certified

RNG = np.random.default_rng(0)
SUCCESS = np.sort(RNG.random((400, 3)), axis=1)
COST = np.array([1.0, 3.0, 9.0]) * RNG.uniform(0.5, 1.5, (400, 1))


def window(budget: float, committed: float, now: float) -> Window:
    return Window(budget, committed, 0.0, 400.0, now)


def test_unspent_money_carries_over() -> None:
    part = slice(0, 40)
    capped, carried = (
        p.allowance_usd(SUCCESS[part], COST[part], window(800, 100, 200)) for p in (PerBatch(2), CarryOver())
    )
    assert capped == 80
    assert carried == pytest.approx(800 * 240 / 400 - 100)
    assert CarryOver().allowance_usd(SUCCESS[part], COST[part], window(800, 790, 200)) == 0


def test_a_learned_price_brings_spending_back_to_its_course() -> None:
    """Started far too low, it ends the day near the budget, where a price that never moves does not."""
    spent = {}
    for pacer in (ShadowPrice(price=1e-3), FixedPrice(1e-3)):
        committed = 0.0
        for start in range(0, 400, 10):
            rows = slice(start, start + 10)
            committed += pacer.allowance_usd(SUCCESS[rows], COST[rows], window(1000, committed, start))
        spent[type(pacer)] = committed
    assert spent[FixedPrice] > 2000
    assert spent[ShadowPrice] == pytest.approx(1000, rel=0.4)


def test_the_price_of_a_batch_spends_its_budget() -> None:
    price = batch_price(SUCCESS, COST, 1000.0)
    assert FixedPrice(price * 1.0001).allowance_usd(SUCCESS, COST, window(1000, 0, 0)) == pytest.approx(1000, rel=0.02)


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


def test_a_solve_that_ends_without_an_answer_is_an_error() -> None:
    def fails() -> Answer:
        raise SystemExit

    with pytest.raises(RuntimeError, match="ended without an answer"):
        apart(fails)
