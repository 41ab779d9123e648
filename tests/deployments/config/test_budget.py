from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.config.service import parse_config
from apportion.router.budget import CarryOver, DualDescent, Limit, Resolving, Scope, Window
from apportion.router.errors import ConfigurationError
from tests.deployments.local_router import LocalService, configuration

DAILY = {"scope": "service", "window": "day", "usd": 5}
MODEL = {
    "name": "small",
    "source": "x",
    "input_usd_per_million": 1,
    "output_usd_per_million": 1,
    "max_model_len": 100,
}


def parse(budget: dict[str, Any], **sections: Any) -> Any:
    budget = {"database": "sqlite:////tmp/b.db", **budget}
    return parse_config({"models": [MODEL], "predictor": {"artefact": "x"}, "budget": budget, **sections})


def test_limits_are_exact() -> None:
    limits = parse({"limits": [DAILY | {"usd": 0.1}, {"scope": "tenant", "window": "month", "usd": 2, "name": "a"}]})
    assert [limit.limit() for limit in limits.budget.limits] == [
        Limit(Scope.service, Window.day, 100_000_000),
        Limit(Scope.tenant, Window.month, 2_000_000_000, "a"),
    ]


@pytest.mark.parametrize(
    ("pacing", "pacer"),
    [
        ({"mode": "per_batch"}, None),
        ({"mode": "carry_over", "options": {"ahead": 0.1}}, CarryOver(0.1)),
        ({"mode": "dual_descent", "options": {"gain": 2, "price": 10}}, DualDescent(gain=2, price=10)),
        ({"mode": "resolving", "options": {"memory": 100}}, Resolving(100)),
    ],
)
def test_pacers_are_built_with_their_options(pacing: dict[str, Any], pacer: object) -> None:
    assert parse({"limits": [DAILY], "pacing": pacing}).budget.pacing.build() == pacer


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"limits": [DAILY | {"usd": -1}]}, "budget.limits.0.usd"),
        ({"limits": [DAILY | {"window": "week"}]}, "budget.limits.0.window"),
        ({"limits": [DAILY | {"name": "x"}]}, "no `name`"),
        ({"pacing": {"mode": "resolving"}}, "add {scope: service, window: day"),
        (
            {"limits": [DAILY], "pacing": {"mode": "resolving", "options": {"gain": 1}}},
            "no option 'gain'; it takes",
        ),
        ({"limits": [DAILY], "pacing": {"mode": "carry_over", "options": {"ahead": -1}}}, "above zero"),
        ({"limits": [DAILY], "pacing": {"mode": "resolving", "options": {"memory": "all"}}}, "memory: input should be"),
        ({"pacing": {"mode": "per_batch", "options": {"gain": 1}}}, "takes no options"),
        ({"colour": "red"}, "budget.colour: unknown field"),
        ({"limits": [DAILY | {"scope": "model", "name": "smal"}]}, "no model of this service; the nearest is 'small'"),
        ({"limits": [DAILY | {"scope": "key"}]}, "needs a `keys` section"),
    ],
)
def test_mistakes_are_named(budget: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse(budget)


def test_a_cap_for_each_batch_and_a_pacing_of_the_window_exclude_each_other() -> None:
    budget = {"limits": [DAILY], "pacing": {"mode": "resolving"}}
    with pytest.raises(ConfigurationError, match="choose that mode"):
        parse(budget, routing={"budget_usd_per_request": 1e-5})


async def test_the_live_policy_is_checked_as_the_configuration_is(tmp_path: Path) -> None:
    paced = {"limits": [DAILY], "pacing": {"mode": "resolving"}}
    service = LocalService(configuration(tmp_path / "b.db", budget=paced))
    service.router.reconfigure({"budget_usd_per_request": 1e-5})
    assert "remove it" in (await service.router.state())["policy_error"]
    await service.close()
    service = LocalService(configuration(None))
    service.router.reconfigure({"limits": [DAILY]})
    assert "need a `budget` section" in (await service.router.state())["policy_error"]
    await service.close()
    service = LocalService(configuration(tmp_path / "c.db"))
    for limit, says in (({"scope": "model", "name": "heorn"}, "'heron'"), ({"scope": "key"}, "`keys` section")):
        service.router.reconfigure({"limits": [DAILY | limit]})
        assert says in (await service.router.state())["policy_error"]
    await service.close()


async def test_a_limit_of_a_key_that_is_not_there_is_told_and_costs_nobody_the_policy(tmp_path: Path) -> None:
    limits = [DAILY | {"scope": "key", "name": "kk"}]
    service = LocalService(configuration(tmp_path / "b.db", budget={"limits": limits}))
    service.router.reconfigure({"strategy": "greedy", "max_seconds": 2.0, "latency_weight_per_s": 0.1})
    state = await service.router.state()
    assert (state["strategy"], state["policy_error"]) == ("greedy", None)
    assert (state["max_seconds"], state["latency_weight_per_s"]) == (2.0, 0.1)
    assert state["keys_error"] == "limits: there is no key 'kk'; the nearest is 'k'"
    await service.close()


def test_anonymous_callers_and_keys_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="nobody comes in without one"):
        parse({}, keys={"env": "X"}, anonymous={"max_in_flight": 1})
    with pytest.raises(ConfigurationError, match=r"anonymous\.models: 'smal' is no model"):
        parse({}, anonymous={"models": ["smal"]})


SECRET = "postgresql+psycopg://router:hunter2@nowhere.invalid/budget"


def test_the_database_is_named_by_one_source() -> None:
    with pytest.raises(ConfigurationError, match="give one of them"):
        parse({"database_env": "LEDGER"})
    with pytest.raises(ConfigurationError, match="give one of them"):
        parse({"database": None})


def test_the_databases_url_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = parse({"database": None, "database_env": "LEDGER"}).budget
    monkeypatch.delenv("LEDGER", raising=False)
    with pytest.raises(ConfigurationError, match="LEDGER is not set"):
        budget.ledger()
    monkeypatch.setenv("LEDGER", SECRET)
    assert budget.url() == SECRET
    assert "hunter2" not in repr(budget)


def test_the_databases_url_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ledger-url"
    budget = parse({"database": None, "database_file": str(file)}).budget
    with pytest.raises(ConfigurationError, match="cannot be read"):
        budget.ledger()
    file.write_text(f"sqlite:///{tmp_path}/b.db\n")
    budget.ledger().close()
    assert (tmp_path / "b.db").exists()


def test_no_message_and_no_repr_shows_a_password() -> None:
    config = parse({"database": SECRET})
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config)
    for wrong in (SECRET.replace("postgresql+psycopg", "mysql"), SECRET.replace("psycopg", "nodriver"), f" {SECRET} x"):
        with pytest.raises(ConfigurationError) as caught:
            parse({"database": wrong}).budget.ledger()
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError) as wrong_field:
        parse({"database": SECRET, "limit": []})
    assert "hunter2" not in str(wrong_field.value)
