"""Who gets a prediction when the predictor has more to do than it can, and what the others get."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apportion.router.batch.capabilities import Capabilities
from apportion.router.batch.forecasting import forecaster as forecaster_module
from apportion.router.batch.forecasting.forecaster import CallLimits, Forecaster
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.budget import Account
from apportion.router.errors import ContextLengthError, InvalidRequestError
from apportion.router.unpriced import Unpriced
from tests.router.batch.forecasting.plain_lane import Slow, broken, forecast, make_forecaster, predicted
from tests.router.batch.plain_room import MODELS, POLICY, Clock, forecasts, items, until


async def late(*_: object) -> None:
    await asyncio.sleep(10)


async def test_what_comes_at_once_goes_with_one_call() -> None:
    slow = Slow(0.0)
    await forecast(make_forecaster(slow), *items(20))
    assert [len(call) for call in slow.calls] == [20]


async def test_twice_the_load_that_can_be_predicted_leaves_half_of_it_predicted() -> None:
    # 1,000 a second come, 500 can be predicted; a call of 20 takes 40 ms and may take 100.
    forecaster = make_forecaster(Slow(0.002), timeout_s=0.1, limits=CallLimits(items=20, patience_s=0.1))
    work = []
    for _ in range(40):
        work.append(asyncio.create_task(forecast(forecaster, *items(20))))
        await asyncio.sleep(0.02)
    guessed = [len(found.guessed) / 20 for found in await asyncio.gather(*work)]
    assert sum(guessed) / len(guessed) < 0.65
    assert forecaster.state == "closed", "to have no time is no failure"


async def test_long_texts_go_beside_the_others_and_what_is_too_long_is_not_predicted() -> None:
    ordinary, bulk = Slow(0.0), Slow(0.0)
    forecaster = make_forecaster(ordinary, bulk=bulk, ordinary_chars=50, max_chars=100, limits=CallLimits(chars=80))
    prompts = [Prompt(letter * size) for letter, size in (("a", 50), ("b", 50), ("c", 60), ("d", 100), ("e", 101))]
    huge = [
        Prompt([{"role": "user", "content": [{"type": "text", "text": "x" * 101}]}]),
        Prompt("x", tools=[{"type": "function", "function": {"description": "x" * 101}}]),
    ]
    found = await asyncio.gather(*(forecaster.forecast(RouteItem("r"), prompt) for prompt in [*prompts, *huge]))
    assert [[content[0] for content in call] for call in ordinary.calls] == [["a"], ["b"]], "no call has more than 80"
    assert [[content[0] for content in call] for call in bulk.calls] == [["c", "d"]]
    assert [bool(one.guessed) for one in found] == [False] * 4 + [True] * 3


async def test_a_flood_of_megabytes_holds_up_nobody() -> None:
    forecaster = make_forecaster(Slow(0.0), bulk=Slow(0.05), timeout_s=1.0)
    flood = [asyncio.create_task(forecaster.forecast(RouteItem("f"), Prompt("x" * 500_000))) for _ in range(8)]
    await asyncio.sleep(0.01)
    began_s = time.monotonic()
    assert not (await forecast(forecaster, *items(3))).guessed
    assert time.monotonic() - began_s < 0.04
    assert not any([(await one).guessed for one in flood])


async def test_what_goes_wrong_with_long_texts_opens_no_other_breaker() -> None:
    forecaster = make_forecaster(predicted, bulk=broken, ordinary_chars=10)
    for _ in range(4):
        assert (await forecast(forecaster, *items(1), content="x" * 11)).guessed
    assert forecaster.state == "closed"
    assert not (await forecast(forecaster, *items(1), content="x")).guessed
    forecaster.close()


async def test_nobody_waits_for_a_predictor_that_is_left_alone_or_tried_again() -> None:
    clock = Clock()
    forecaster = make_forecaster(late, timeout_s=0.3, clock=clock)
    await asyncio.gather(*(forecast(forecaster, item, content=item.id) for item in items(1)))
    for _ in range(2):
        await forecast(forecaster, *items(1))
    assert forecaster.state == "open"
    clock.now_s += 2
    assert forecaster.state == "half_open"
    async with asyncio.timeout(0.1):
        assert (await forecast(forecaster, *items(2))).guessed == {0, 1}
    forecaster.close()


async def test_a_predictor_that_works_again_is_found_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecaster_module, "LOOK_S", 0.005)
    works, clock = False, Clock()

    async def predict(prompts: Sequence[Prompt]) -> Unpriced:
        return await (predicted if works else broken)(prompts)

    forecaster = make_forecaster(predict, clock=clock)
    for _ in range(3):
        await forecast(forecaster, *items(1))
    await asyncio.sleep(0.05)
    assert forecaster.state == "open", "not before its time"
    works = True
    clock.now_s += 5
    await until(lambda: forecaster.state == "closed")
    assert not (await forecast(forecaster, *items(1))).guessed


async def test_plans_that_are_not_run_wait_for_their_turn_and_hold_up_nobody() -> None:
    ordinary, bulk = Slow(0.0), Slow(0.1)
    forecaster = make_forecaster(ordinary, bulk=bulk, timeout_s=5.0)
    planned = [asyncio.create_task(forecaster.forecast(item, Prompt("p"), planned_only=True)) for item in items(10)]
    await asyncio.sleep(0.01)
    assert not (await forecast(forecaster, *items(1))).guessed
    assert not any(one.done() for one in planned)
    assert not any([(await one).guessed for one in planned])
    assert [len(call) for call in bulk.calls] == [2] * 5


async def test_a_flood_goes_without_predictions_before_anybody_else_does() -> None:
    # 300 requests that take 0.6 s to predict, and a time-out of 0.2 s for those of one call.
    forecaster = make_forecaster(Slow(0.002), timeout_s=0.2, limits=CallLimits(items=32, patience_s=0.1))
    flood = [asyncio.create_task(forecast(forecaster, item)) for item in items(300, account=Account(key="flood"))]
    others = []
    for n in range(20):
        await asyncio.sleep(0.01)
        others.append(asyncio.create_task(forecast(forecaster, RouteItem(f"o{n}", account=Account(key=f"other-{n}")))))
    assert not any([(await one).guessed for one in others])
    guessed = [bool((await one).guessed) for one in flood]
    assert sum(guessed) > 150
    assert not all(guessed)


@pytest.mark.parametrize("predict", [predicted, broken])
async def test_pictures_and_clips_count_at_their_most(predict: Any) -> None:
    forecaster = make_forecaster(predict, timeout_s=5.0, media_tokens=((50, 7), (90, 0)))
    seeing = RouteItem("a", needs=Capabilities(images=2, audio=1))
    found = await forecast(forecaster, RouteItem("b"), seeing)
    plain, more = found.rows([0]).priced(POLICY.prices), found.rows([1]).priced(POLICY.prices)
    np.testing.assert_array_equal(more.input_tokens - plain.input_tokens, [[107, 180]])
    np.testing.assert_allclose(more.cost_usd - plain.cost_usd, [[107e-6, 1800e-6]])


async def test_what_answers_nothing_says_nothing_of_how_long_answers_are() -> None:
    async def predict(prompts: Sequence[Prompt]) -> Unpriced:
        found = forecasts(len(prompts))
        one = [prompt.content == "embedded" for prompt in prompts]
        found.layer("output_tokens")[one] = 1.0
        return found

    forecaster = make_forecaster(predict, timeout_s=5.0)
    embedded = [RouteItem(f"e{i}", needs=Capabilities(embeddings=1)) for i in range(50)]
    await forecast(forecaster, *embedded, content="embedded")
    await forecast(forecaster, RouteItem("a"))
    np.testing.assert_array_equal(forecaster._lengths.tokens, [5.0, 5.0])


async def test_without_the_predictor_answers_are_as_long_as_they_were() -> None:
    works = True

    async def predict(prompts: Sequence[Prompt]) -> Unpriced:
        return await (predicted if works else broken)(prompts)

    forecaster = make_forecaster(predict)
    await forecast(forecaster, *items(300))
    works = False
    found = await forecast(forecaster, *items(2))
    np.testing.assert_allclose(found.layer("output_tokens"), 5.0)
    costs_usd = found.priced(POLICY.prices).cost_usd
    assert (costs_usd < 100 * np.array([1e-6, 1e-5])).all(), "a cap that paid before pays still"


@pytest.mark.parametrize("predict", [broken, late])
async def test_without_the_predictor_means_and_bounds_are_all_that_is_known(predict: Any) -> None:
    found = await forecast(make_forecaster(predict), *items(1), max_tokens=7, sequences=2)
    assert found.guessed == {0}
    np.testing.assert_array_equal(found.layer("success"), [[0.4, 0.9]])
    prices = [model.price for model in MODELS]
    assert found.priced(prices).cost_usd[0, 0] >= (len("hello") + 2 * 7) * 1e-6, "no cost is too low"
    long = await forecast(make_forecaster(predict), *items(1), max_tokens=50, min_tokens=50)
    np.testing.assert_array_equal(long.layer("answered_tokens"), 50.0)


@pytest.mark.parametrize(
    "answer",
    [forecasts(1), replace(forecasts(3), models=("large", "small")), forecasts(3, success=(0.5, float("nan")))],
)
async def test_what_nobody_asked_for_is_not_believed(answer: Unpriced) -> None:
    async def confused(_: Sequence[Prompt]) -> Unpriced:
        return answer

    assert (await forecast(make_forecaster(confused), *items(3))).guessed == {0, 1, 2}


async def test_a_prompt_that_cannot_be_read_is_told_so_alone() -> None:
    async def predict(prompts: Sequence[Prompt]) -> Unpriced:
        unread = {row: InvalidRequestError("no") for row, prompt in enumerate(prompts) if prompt.content == "bad"}
        return replace(forecasts(len(prompts)), errors=unread)

    forecaster = make_forecaster(predict)
    good, bad = await asyncio.gather(forecast(forecaster, *items(1)), forecast(forecaster, *items(1), content="bad"))
    assert not good.errors
    assert list(bad.errors) == [0]


async def test_a_prediction_that_was_cancelled_elsewhere_is_a_failure_like_any_other() -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    assert (await forecast(make_forecaster(cancelled), *items(2))).guessed == {0, 1}


async def leaves(forecaster: Forecaster) -> None:
    task = asyncio.create_task(forecast(forecaster, *items(1)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_whoever_leaves_while_predicted_ends_and_takes_no_place_along() -> None:
    slow = Slow(0.05)
    forecaster = make_forecaster(slow, timeout_s=1.0)
    await leaves(forecaster)
    assert not (await forecast(forecaster, *items(1))).guessed


def said(text: str, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": text}]}]


@pytest.mark.parametrize(
    ("content", "model", "refused"),
    [
        ("x" * 500, None, False),  # a hundred tokens of the second model
        ("x" * 501, None, True),
        ("x" * 401, "small", True),
        ("x" * 401, "large", False),
        ("x" * 401, "strange", False),
        ("x " * 500, None, False),
        (said("x" * 501), None, True),
        (said("x" * 501, "assistant"), None, False),  # a template may leave that out
        (["x" * 300] * 2, None, False),
        ([1] * 600, None, False),
    ],
)
async def test_what_no_context_holds_is_refused_by_its_length_before_anybody_reads_it(
    content: Any, model: str | None, refused: bool
) -> None:
    slow = Slow(0.0)
    forecaster = make_forecaster(slow)
    forecaster.token_chars = (4, 5)
    if refused:
        with pytest.raises(ContextLengthError, match="context length is 100 tokens; the prompt has at least 101"):
            await forecaster.forecast(RouteItem("r", model=model), Prompt(content))
    else:
        assert await forecaster.forecast(RouteItem("r", model=model), Prompt(content))
    assert len(slow.calls) == (not refused)
    assert await forecaster.forecast(RouteItem("r", model=model), Prompt(content), planned_only=True)
    forecaster.token_chars = (4, None)
    assert model == "small" or await forecaster.forecast(RouteItem("r", model=model), Prompt(content))
