"""Drift through the real Router: what answers really cost corrects the next plans, and is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.wire.feedback import Feedback
from apportion.router.batch.messages import Course, Decision, Done, Ending, RouteItem
from apportion.router.budget import Account
from tests.deployments.local_router import INPUT_TOKENS, NAMES, PRICES, LocalService, configuration
from tests.deployments.observability.scraped import Scraped

EXPECTED = 30  # tokens: what is played is half of the most that an answer may have
LONGER = 1.5


async def answer(service: LocalService, name: str, tokens: float, **fields: Any) -> Decision:
    """One request to heron whose answer has so many tokens."""
    decision = await service.plan(RouteItem(name, **{"model": "heron", "max_tokens": 2 * EXPECTED} | fields))
    cost_usd = (INPUT_TOKENS + tokens) * PRICES[NAMES.index(decision.model)] / 1e6
    course = Course(0, 0.0, 0.1, 0.2, 200, INPUT_TOKENS, round(tokens))
    service.link.finish(Done(decision.id, cost_usd, Ending.answered, course))
    return decision


async def drift(service: LocalService, model: str = "heron") -> dict[str, Any]:
    state = await service.idle_state()
    return dict(state["drift"][model])


@pytest.fixture
async def service() -> Any:
    made = LocalService(configuration(None))
    await made.announce()
    yield made
    await made.close()


async def test_answers_that_are_longer_than_expected_cost_more_in_the_next_plans(service: LocalService) -> None:
    first = await answer(service, "first", LONGER * EXPECTED)
    await asyncio.gather(*(answer(service, f"r{i}", LONGER * EXPECTED) for i in range(400)))
    told = await drift(service)
    last = await answer(service, "last", LONGER * EXPECTED)
    other = await answer(service, "other", EXPECTED, model="wren")
    short = await answer(service, "short", 1, max_tokens=40)

    usd = PRICES[NAMES.index("heron")] / 1e6
    assert first.cost_usd == pytest.approx((INPUT_TOKENS + EXPECTED) * usd)
    assert told["tokens_ratio"] == pytest.approx(LONGER, abs=0.04)
    assert last.cost_usd == pytest.approx((INPUT_TOKENS + told["tokens_ratio"] * EXPECTED) * usd, rel=0.01)
    assert other.cost_usd == pytest.approx((INPUT_TOKENS + EXPECTED) * PRICES[0] / 1e6)
    assert short.cost_usd <= (INPUT_TOKENS + 40) * usd
    assert 1.0 <= told["cost_ratio"] < LONGER


async def test_previews_and_the_policy_go_by_it_too(service: LocalService) -> None:
    await asyncio.gather(*(answer(service, f"r{i}", LONGER * EXPECTED) for i in range(400)))
    await service.idle_state()
    item = RouteItem("preview", model="heron", max_tokens=2 * EXPECTED)
    [preview] = await service.route([item])
    decision = await answer(service, "run", EXPECTED)
    service.router.reconfigure({"correct_costs": False})
    plain = await answer(service, "plain", EXPECTED)

    assert preview.cost_usd == pytest.approx(decision.cost_usd, rel=0.01)
    assert plain.cost_usd == pytest.approx((INPUT_TOKENS + EXPECTED) * PRICES[-1] / 1e6)


async def test_what_generates_nothing_fails_or_is_not_predicted_teaches_nothing(service: LocalService) -> None:
    for name, ending, status, tokens in (
        ("nothing", Ending.answered, 200, 0),
        ("unknown", Ending.answered, 200, None),
        ("lost", Ending.connection_lost, 503, 500),
    ):
        decision = await service.plan(RouteItem(name, model="heron", max_tokens=10))
        service.link.finish(Done(decision.id, 1e-3, ending, Course(0, 0.0, 0.1, 0.2, status, 10, tokens)))

    told = await drift(service)
    assert (told["tokens_ratio"], told["cost_ratio"], told["success_predicted"]) == (1.0, 1.0, None)


async def test_feedback_is_compared_with_what_was_predicted(tmp_path: Path) -> None:
    keys = {"correct": {"kind": "boolean", "score": True}, "nice": {"kind": "boolean"}}
    sections = {"records": {"uri": str(tmp_path)}, "anonymous": {"feedback_per_minute": 60_000}}
    service = LocalService(configuration(None, feedback={"keys": keys}, **sections))
    await service.announce()
    decisions = [await answer(service, f"r{i}", EXPECTED) for i in range(50)]
    await service.idle_state()

    async def say(name: str, number: float | None, key: str = "correct") -> None:
        await service.router.feedback(Account(), Feedback(name, datetime.now(UTC), key, number, None, None))

    for i in range(40):
        await say(f"r{i}", 0.0)
        await say(f"r{i}", 1.0, "nice")
    await say("r0", None)
    told = await drift(service)
    page = Scraped((await service.router.metrics()).decode())
    await service.close()
    service.router.__del__()

    expected = sum(decision.success or 0.0 for decision in decisions[1:40]) / 39
    assert (told["judged"], told["success_judged"]) == (39, 0.0)
    assert told["success_expected"] == pytest.approx(expected)
    assert told["deviations"] < -5
    assert page.value("apportion_judged_deviation", model="heron") == pytest.approx(told["deviations"])
    assert page.value("apportion_records_dropped_total") == 0


async def test_a_shift_of_predictions_is_told(service: LocalService) -> None:
    assert (await drift(service))["shift"] is None
    await asyncio.gather(*(answer(service, f"r{i}", EXPECTED) for i in range(220)))

    told = await drift(service)
    page = Scraped((await service.router.metrics()).decode())
    assert told["shift"] > 0.25  # played predictions are not the artefact's
    assert page.value("apportion_success_shift", model="heron") == pytest.approx(told["shift"])
    assert page.value("apportion_success_predicted", model="heron") == pytest.approx(0.9, abs=0.1)
