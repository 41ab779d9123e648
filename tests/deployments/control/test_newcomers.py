"""Models that the predictor does not know, through the real Router, planner, ledger and Predictor, without Ray."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.control.predictor import Predictor
from apportion.deployments.wire.headers import decision_headers, verdict_json
from apportion.router.batch.messages import Done, RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.errors import BudgetExceededError, UnavailableError
from tests.deployments.local_router import NAMES, LocalService, configuration

OWL = {"name": "owl", "output_usd_per_million": 16.0}
ROOK = {"name": "rook", "prior_success": 0.6}


def item(name: str, **fields: Any) -> RouteItem:
    return RouteItem(id=name, **{"max_tokens": 10, **fields})


async def test_it_is_served_by_name_counted_and_paid_for_like_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limit = {"scope": "model", "name": "owl", "window": "total", "usd": 2e-4}
    service = LocalService(configuration(tmp_path / "b.db", newcomers=[OWL], budget={"limits": [limit]}))
    await service.announce()
    assert "owl: the predictor does not know it" in caplog.text
    try:
        automatic = await asyncio.gather(*(service.plan(item(f"a{i}")) for i in range(20)))
        assert "owl" not in {one.model for one in automatic}
        service.router.reconfigure({"strategy": "static", "options": {"model": 4}})
        assert (await service.plan(item("s"))).model == "wren", "a new policy does not forget it"
        named = await service.plan(item("n", model="owl"))
        assert (named.model, named.success) == ("owl", None)
        assert b"x-router-success" not in dict(decision_headers(named))
        with pytest.raises(BudgetExceededError):
            await service.plan(item("dear", model="owl", max_tokens=None))
        state = await service.router.state()
        assert state["models"]["owl"]["free_slots"] == 63
        assert state["in_auto"] == {"wren": True, "finch": True, "lark": True, "heron": True, "owl": False}
        told = verdict_json(0, (await service.route([item("r")]))[0])["candidates"][4]
        assert (told["model"], told["success"], told["allowed"]) == ("owl", None, False)
        assert "only requests that name it go there" in told["reason"]
        for decision in (*automatic, named):
            service.link.finish(Done(decision.id, 1e-5))
        service.link.finish(Done("s", 1e-5))
        state = await service.idle_state()
        assert state["models"]["owl"]["free_slots"] == 64
        assert state["budget"]["spent_usd"] == pytest.approx(22e-5)
    finally:
        await service.close()


@pytest.fixture(scope="module")
def predictor() -> Any:
    config = configuration(None, newcomers=[OWL, ROOK])
    sources = {name: f"zoo:{name}" for name in NAMES}
    models = tuple(
        one.model_copy(update={"source": sources.get(one.name, "zoo:wren")}) for one in reversed(config.models)
    )
    return Predictor.func_or_class(config.model_copy(update={"models": models}))  # type: ignore[attr-defined]


async def test_the_predictor_has_a_column_for_every_model_of_the_configuration(predictor: Any) -> None:
    models = ("rook", "owl", *NAMES[::-1])
    found = await predictor.predict([Prompt("x", max_tokens=10), Prompt("x", max_tokens=3)], models)
    found.check(models, 2)
    assert (found.layer("success")[:, 0] == 0.6).all()
    assert (found.layer("success")[:, 1] == 0.0).all()


async def test_a_predictor_of_other_models_mixes_up_none(predictor: Any) -> None:
    for names in (NAMES, ("owl", "rook", *NAMES[::-1])):
        with pytest.raises(UnavailableError, match="different models"):
            await predictor.predict([Prompt("x")], names)


@pytest.mark.parametrize(
    ("newcomers", "rung"), [([], "static"), ([ROOK, OWL], "static"), ([OWL, ROOK], "mip")], ids=str
)
async def test_while_a_deploy_changes_the_models_batches_are_planned_without_a_predictor_of_others(
    predictor: Any, newcomers: list[dict[str, Any]], rung: str
) -> None:
    """The same models in another order included."""
    config = configuration(None, newcomers=newcomers)
    service = LocalService(config.model_copy(update={"models": config.models[::-1]}), predictor)
    await service.announce()
    try:
        decisions = await asyncio.gather(*(service.plan(item(f"r{i}")) for i in range(3)))
        assert [one.rung for one in decisions] == [rung] * 3
        assert "owl" not in {one.model for one in decisions}
    finally:
        await service.close()
