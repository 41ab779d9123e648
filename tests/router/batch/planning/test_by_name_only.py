"""A model of which nobody knows how well it answers gets the requests that name it, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apportion.router.assignment import Mip, Static, Strategy
from apportion.router.batch.messages import Decision, Refusal, RouteItem, RoutingAsk
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.availability import Availability
from apportion.router.errors import InfeasibleError, UnavailableError, UnknownModelError
from apportion.router.unpriced import Unpriced
from tests.router.batch.plain_room import MODELS, PlainRoom, estimates, forecasts, guessed

FLEET = (MODELS[0], replace(MODELS[1], by_name_only=True))
NAMED = RoutingAsk(models=("small", "large"))


def item(name: str, **fields: Any) -> RouteItem:
    return RouteItem(name, **fields)


def predicted(items: Sequence[RouteItem]) -> Unpriced:
    return forecasts(len(items))


async def verdicts(
    *items: RouteItem, strategy: Strategy | None = None, forecast: Any = predicted, **slots: int
) -> list[Any]:
    room = PlainRoom(forecast, policy=Policy(FLEET, strategy or Mip()))
    room.join(**(slots or {"small": 8, "large": 8}))
    return await room.verdicts(*items)


@pytest.mark.parametrize("strategy", [Mip(), Static(model=1)])
@pytest.mark.parametrize("forecast", [predicted, guessed])
async def test_only_requests_that_name_it_go_there(strategy: Strategy, forecast: Any) -> None:
    auto, permitted, named, listed = await verdicts(
        item("auto"),
        item("permitted", ask=RoutingAsk(permitted=("small", "large"))),
        item("named", model="large"),
        item("listed", ask=RoutingAsk(models=("large",))),
        strategy=strategy,
        forecast=forecast,
    )
    assert [one.model for one in (auto, permitted, named, listed)] == ["small", "small", "large", "large"]
    assert (named.success, listed.success) == (None, None)
    assert auto.success is not None


async def test_a_list_that_names_it_beside_others_makes_it_a_candidate() -> None:
    (decided,) = await verdicts(item("listed", ask=NAMED))
    assert (decided.model, decided.success) == ("large", None)


async def test_it_stands_in_for_no_model_that_is_away_or_has_failed() -> None:
    failed = item("failed", avoid_models=("small",))
    (refused,) = await verdicts(item("auto"), small=0, large=8)
    assert isinstance(refused.error, UnavailableError)
    room = PlainRoom(policy=Policy(FLEET, Mip()))
    avoided = np.array([[True, False]])
    found = await room.planner.plan(
        [failed], estimates(1), Availability(np.array([8, 8]), np.array([8, 8]), avoided=avoided), room.policy
    )
    assert isinstance(found.verdicts["failed"], Refusal)


async def test_previews_say_why_it_is_no_candidate() -> None:
    room = PlainRoom(policy=Policy(FLEET, Mip()))
    room.join(small=8, large=8)
    asks = [RoutingAsk(), RoutingAsk(models=("small",)), RoutingAsk(permitted=("small",)), NAMED]
    told = await room.previewed(*(item(f"r{i}", ask=ask) for i, ask in enumerate(asks)))
    candidates = [one.candidates[1] for one in told if isinstance(one, Decision)]
    assert [candidate.reason for candidate in candidates] == [
        "it has no outcomes yet to route by, so only requests that name it go there",
        "the request names other models",
        "the caller may not use it",
        None,
    ]
    assert {candidate.success for candidate in candidates} == {None}
    assert {candidate.calibrated_success for candidate in candidates} == {None}


async def test_who_may_use_nothing_else_is_told_to_name_it() -> None:
    (refused,) = await verdicts(item("r", ask=RoutingAsk(permitted=("large",))))
    assert isinstance(refused.error, UnknownModelError)
    assert refused.error.message == "no model that you may use has outcomes yet to route by; name one of large"


async def test_it_promises_no_success() -> None:
    asked = item("r", model="large", ask=RoutingAsk(min_success=0.1))
    (refused,) = await verdicts(asked, forecast=lambda _: forecasts(1, success=(0.4, 0.0)))
    assert isinstance(refused.error, InfeasibleError)
    assert "nobody knows yet how well they answer" in refused.error.message
    assert "0" not in refused.error.message.replace("0.1", "")
