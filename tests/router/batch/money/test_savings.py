"""What batches leave of their money goes where it does more, and never more than was left."""

from dataclasses import replace

import numpy as np
import pytest

from apportion.router.arrays import FloatArray
from apportion.router.assignment import Mip
from apportion.router.batch.messages import Decision, Done, RouteItem
from apportion.router.batch.money.savings import Savings
from apportion.router.batch.policy import Policy, ServedModel
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced
from tests.router.batch.plain_room import PlainRoom

MODELS = tuple(
    ServedModel(name, ModelPrice(price, price), 4096)
    for name, price in (("small", 1.0), ("middle", 4.0), ("large", 10.0))
)
TOKENS = 100.0  # of prompt and answer each, so that a request costs 2e-4, 8e-4 and 2e-3 USD
EACH_USD = 6e-4
REQUESTS = 240


def success(n: int, seed: int = 0) -> FloatArray:
    """Half of the requests gain nothing by a dearer model."""
    rng = np.random.default_rng(seed)
    easy = rng.uniform(0.85, 0.9, (n, 1)) + np.zeros((n, 3))
    hard = np.sort(rng.uniform(0.1, 0.95, (n, 3)), axis=1)
    chosen: FloatArray = np.where(rng.uniform(size=(n, 1)) < 0.5, easy, hard)
    return chosen


def unpriced(chances: FloatArray) -> Unpriced:
    tokens = np.full(chances.shape, TOKENS)
    none = np.zeros(chances.shape)
    layers = np.stack((chances, none, tokens, tokens, tokens, none))
    return Unpriced(tuple(model.name for model in MODELS), layers)


async def played(pool_requests: int, size: int, *, named: str | None = None) -> list[Decision]:
    """Requests in batches of one size under one cap, each of which has ended before the next comes."""
    chances = success(REQUESTS)
    room = PlainRoom(policy=Policy(MODELS, Mip(), EACH_USD, pool_requests))
    room.join(small=256, middle=256, large=256)
    decisions: list[Decision] = []
    for start in range(0, REQUESTS, size):
        room.forecast = lambda items, start=start: unpriced(chances[start : start + len(items)])
        batch = [RouteItem(f"r{start + i}", model=named) for i in range(min(size, REQUESTS - start))]
        for verdict in await room.verdicts(*batch):
            assert isinstance(verdict, Decision)
            decisions.append(verdict)
            room.end(Done(verdict.id, verdict.cost_usd))
    return decisions


def good(decisions: list[Decision]) -> float:
    return float(np.mean([decision.success for decision in decisions]))


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_small_batches_answer_as_well_as_one_large_batch(size: int) -> None:
    alone, together, at_once = await played(0, size), await played(256, size), await played(0, REQUESTS)
    assert good(alone) < good(together) <= good(at_once) + 1e-9
    assert good(at_once) - good(together) < 0.25 * (good(at_once) - good(alone))


@pytest.mark.parametrize("size", [1, 5])
async def test_at_no_moment_more_is_planned_than_requests_have_brought(size: int) -> None:
    planned = np.cumsum([decision.cost_usd for decision in await played(256, size)])
    brought = EACH_USD * np.arange(1, REQUESTS + 1)
    ends = np.arange(size - 1, REQUESTS, size)
    assert (planned[ends] <= brought[ends] * (1 + 1e-5)).all()
    assert planned[-1] > 0.95 * brought[-1]


async def test_what_is_told_of_a_batch_is_its_cap() -> None:
    caps = {decision.batch.id: decision.batch for decision in await played(256, 3)}
    assert any(batch.cap_usd > 3 * EACH_USD * (1 + 1e-6) for batch in caps.values())
    assert all(batch.planned_cost_usd <= batch.cap_usd * (1 + 1e-9) for batch in caps.values())


async def test_who_names_a_model_neither_saves_nor_spends_what_was_saved() -> None:
    chances = success(2)
    room = PlainRoom(lambda items: unpriced(chances[: len(items)]), policy=Policy(MODELS, Mip(), EACH_USD, 256))
    room.join(small=256, middle=256, large=256)
    for model in ("small", "large"):
        await room.verdicts(*(RouteItem(f"{model}{i}", model=model) for i in range(2)))
    assert room.reservations.savings.saved_usd == 0


def test_another_cap_begins_with_nothing_and_no_more_is_kept_than_was_asked_for() -> None:
    value, cost_usd = np.tile([0.5, 0.6], (8, 1)), np.tile([1.0, 10.0], (8, 1))
    savings = Savings()
    savings.take(value, cost_usd, 8.0, 3.0, most=4)
    assert savings.saved_usd == 4 * 3.0
    assert savings.allowance_usd(value, cost_usd, 2.0, scarce=False) == 8 * 2.0
    savings.take(value, cost_usd, 16.0, 2.0, most=4)
    assert savings.saved_usd == 0


def test_a_batch_that_may_be_forced_off_its_cheapest_models_has_all_of_its_own() -> None:
    """Else it had to wait for slots although it brings the money for a model that has some."""
    rng = np.random.default_rng(0)
    value, cost_usd = success(64), np.tile([1.0, 4.0, 10.0], (64, 1)) * rng.uniform(0.9, 1.1, (64, 3))
    savings = Savings()
    savings.take(value, cost_usd, 64.0, 2.0, most=0)
    easy = value[(np.ptp(value, axis=1) == 0)][:4]
    dear = cost_usd[: len(easy)]
    assert savings.allowance_usd(easy, dear, 4.5, scarce=False) == 4 * 4.5  # another cap: nothing is known of it
    savings.take(value, cost_usd, 64.0, 4.5, most=0)
    wanted_usd = savings.allowance_usd(easy, dear, 4.5, scarce=False)
    assert wanted_usd == pytest.approx(dear.min(axis=1).sum(), rel=1e-5)
    assert savings.allowance_usd(easy, dear, 4.5, scarce=True) == 4 * 4.5


async def test_a_plan_that_is_not_run_reckons_with_what_was_saved_and_takes_nothing() -> None:
    chances = success(REQUESTS)
    policy = Policy(MODELS, Mip(), EACH_USD, 256)
    room = PlainRoom(lambda items: unpriced(chances[: len(items)]), policy=policy)
    room.join(small=256, middle=256, large=256)
    await room.verdicts(*(RouteItem(f"r{i}") for i in range(9)))
    saved_usd = room.reservations.savings.saved_usd
    room.reservations.savings.saved_usd = saved_usd + 10 * EACH_USD
    shown = await room.previewed(*(RouteItem(f"p{i}") for i in range(3)))
    assert room.reservations.savings.saved_usd == saved_usd + 10 * EACH_USD
    assert all(isinstance(verdict, Decision) for verdict in shown)
    room.scheduler.policy = replace(policy, pool_requests=0)
    (apart, *_) = await room.previewed(*(RouteItem(f"q{i}") for i in range(3)))
    assert isinstance(apart, Decision)
    assert apart.batch.cap_usd == pytest.approx(3 * EACH_USD)
