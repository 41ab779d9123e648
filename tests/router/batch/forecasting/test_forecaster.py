"""Who gets a prediction when the predictor has more to do than it can."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from apportion.router.assignment import Mip
from apportion.router.batch.capabilities import Capabilities
from apportion.router.batch.forecasting.forecaster import CallLimits, Forecaster
from apportion.router.batch.messages import Decision, RouteItem
from apportion.router.batch.policy import Policy
from apportion.router.budget import Account
from apportion.router.errors import DeadlineError
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice
from tests.router.batch.plain_room import MODELS, POLICY, PlainRoom, broken, estimates, items, until


@dataclass
class Slow:
    """A predictor that works on one call at a time, so long on each request."""

    each_s: float
    calls: list[list[str]] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, asked: Sequence[RouteItem], _prices: Sequence[ModelPrice]) -> Estimates:
        self.calls.append([item.id for item in asked])
        async with self.turn:
            await asyncio.sleep(len(asked) * self.each_s)
        return estimates(len(asked))


async def shares(forecaster: Forecaster, batches: int, size: int, every_s: float) -> list[float]:
    """How much of each batch is predicted."""
    work = []
    for _ in range(batches):
        work.append(asyncio.create_task(forecaster.estimate(items(size), POLICY.prices)))
        await asyncio.sleep(every_s)
    return [float(found.predicted.mean()) for found in await asyncio.gather(*work)]


async def test_twice_the_load_that_can_be_predicted_leaves_half_of_it_predicted() -> None:
    # 1,000 a second come, 500 can be predicted; a call of 20 takes 40 ms and may take 100.
    room = PlainRoom(predict=Slow(0.002), predict_s=0.1, calls=CallLimits(patience_s=0.1))
    predicted = await shares(room.forecaster, batches=40, size=20, every_s=0.02)
    assert sum(predicted) / len(predicted) > 0.35
    assert room.forecaster.state == "closed", "to have no time is no failure"


async def test_a_batch_is_split_into_calls_and_what_is_too_large_alone_is_not_predicted() -> None:
    slow = Slow(0.0)
    roomy = Policy(tuple(replace(model, max_model_len=10_000) for model in MODELS), POLICY.strategy)
    room = PlainRoom(predict=slow, policy=roomy, calls=CallLimits(items=3, chars=100))
    room.join(small=8, large=8)
    sized = [RouteItem(name, "x" * n) for name, n in (("a", 10), ("b", 10), ("c", 10), ("d", 60), ("e", 60))]
    huge = RouteItem("huge", [{"role": "user", "content": [{"type": "text", "text": "x" * 101}]}])
    tools = RouteItem("tools", "x", tools=[{"type": "function", "function": {"description": "x" * 101}}])
    verdicts = await room.verdicts(*sized, huge, tools)
    assert slow.calls == [["a", "b", "c"], ["d"], ["e"]]
    assert all(isinstance(verdict, Decision) for verdict in verdicts)
    assert [verdict.rung for verdict in verdicts] == ["mip"] * 5 + ["static"] * 2
    assert room.planner.rungs_used == {"mip": 5, "static": 2}


async def test_nobody_waits_in_line_behind_the_trial_of_a_hanging_predictor() -> None:
    async def hangs(*_: object) -> Estimates:
        await asyncio.Event().wait()
        raise AssertionError

    room = PlainRoom(predict=hangs, predict_s=0.5)
    for _ in range(3):
        await room.forecaster.estimate(items(1), POLICY.prices)
    room.clock.now_s += 2
    trial = asyncio.create_task(room.forecaster.estimate(items(1), POLICY.prices))
    await asyncio.sleep(0)
    async with asyncio.timeout(0.2):
        assert not (await room.forecaster.estimate(items(2), POLICY.prices)).predicted.any()
    await trial


async def test_previews_keep_no_request_waiting_for_more_than_one_call() -> None:
    slow = Slow(0.02)
    room = PlainRoom(predict=slow, predict_s=0.5)
    room.join(small=8, large=8)
    previews = asyncio.gather(
        *(room.scheduler.preview([replace(item, id=f"p{n}-{item.id}") for item in items(10)]) for n in range(3))
    )
    await asyncio.sleep(0.01)
    for n in range(5):
        (verdict,) = await room.verdicts(RouteItem(f"real{n}", "x"))
        assert isinstance(verdict, Decision)
        assert verdict.rung == "mip"
    assert all(isinstance(verdict, Decision) for one in await previews for verdict in one)
    places = [i for i, call in enumerate(slow.calls) if call[0].startswith("real")]
    assert all(later - earlier <= 2 for earlier, later in itertools.pairwise(places))
    assert {len(call) for call in slow.calls if call[0].startswith("p")} == {2}


async def test_previews_that_fail_open_no_breaker_but_their_own() -> None:
    async def fails_for_previews(asked: Sequence[RouteItem], _prices: Sequence[ModelPrice]) -> Estimates:
        if asked[0].id.startswith("p"):
            raise ConnectionError("gone")
        return estimates(len(asked))

    room = PlainRoom(predict=fails_for_previews)
    room.join(small=8, large=8)
    for n in range(4):
        (verdict,) = await room.scheduler.preview([RouteItem(f"p{n}", "x")])
        assert verdict.rung == "static"
    assert room.forecaster.state == "closed"
    (real,) = await room.verdicts(RouteItem("real", "x"))
    assert real.rung == "mip"


async def test_a_preview_that_gets_no_turn_is_told_so() -> None:
    slow = Slow(0.0)
    room = PlainRoom(predict=slow, predict_s=1.0, preview_s=0.05)
    async with slow.turn:
        real = asyncio.create_task(room.forecaster.estimate(items(1), POLICY.prices))
        await asyncio.sleep(0)
        (told,) = await asyncio.gather(room.scheduler.preview(items(1)), return_exceptions=True)
    assert isinstance(told, DeadlineError)
    await real
    await until(lambda: room.preview._waiting == 0)
    assert await room.scheduler.preview(items(1))


async def test_a_flood_goes_without_predictions_before_anybody_else_does() -> None:
    # 300 requests that take 0.6 s to predict, and a time-out of 0.2 s for those of one call.
    room = PlainRoom(predict=Slow(0.002), predict_s=0.2, calls=CallLimits(items=32, patience_s=0.1))
    room.join(small=500, large=500)
    flood = items(300, account=Account(key="flood"))
    others = [RouteItem(f"o{n}", "hello", account=Account(key=f"other-{n}")) for n in range(20)]
    room.submit(*flood)
    rungs = []
    for other in others:
        await asyncio.sleep(0.01)
        room.submit(other)
    for other in others:
        verdict = await room.verdict(other.id)
        assert isinstance(verdict, Decision)
        rungs.append(verdict.rung)
    assert set(rungs) == {"mip"}
    verdicts = [await room.verdict(item.id) for item in flood]
    flooded = Counter(verdict.rung for verdict in verdicts if isinstance(verdict, Decision))
    assert flooded["static"] > flooded["mip"] > 0


@pytest.mark.parametrize("predicted", [True, False])
async def test_pictures_and_clips_count_at_their_most(predicted: bool) -> None:
    async def predict(batch, prices):
        return estimates(len(batch))

    models = (replace(MODELS[0], media_tokens=(50, 7)), replace(MODELS[1], media_tokens=(90, 0)))
    room = PlainRoom(predict if predicted else broken, policy=Policy(models, Mip()), predict_s=5.0)
    seeing = RouteItem("a", "hello", needs=Capabilities(images=2, audio=1))
    plain = await room.forecaster.estimate([RouteItem("b", "hello")], POLICY.prices)
    more = await room.forecaster.estimate([seeing], POLICY.prices)
    np.testing.assert_array_equal(more.input_tokens - plain.input_tokens, [[107, 180]])
    np.testing.assert_allclose(more.cost_usd - plain.cost_usd, [[107e-6, 1800e-6]])
    both = await room.forecaster.estimate([RouteItem("b", "hello"), seeing], POLICY.prices)
    np.testing.assert_array_equal(both.input_tokens, np.concatenate([plain.input_tokens, more.input_tokens]))


async def test_what_answers_nothing_says_nothing_of_how_long_answers_are() -> None:
    async def predict(batch, prices):
        found = estimates(len(batch))
        return replace(found, output_tokens=np.where([[one.needs.embeddings] for one in batch], 1.0, [[5.0, 5.0]]))

    room = PlainRoom(predict, predict_s=5.0)
    asked = [RouteItem(f"e{i}", "x", needs=Capabilities(embeddings=1)) for i in range(50)]
    await room.forecaster.estimate([*asked, RouteItem("a", "hello")], POLICY.prices)
    np.testing.assert_array_equal(room.forecaster._lengths.tokens, [5.0, 5.0])
