"""Any mix of requests, answers, cancels and limits through the real Router: everyone is answered, nothing leaks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apportion.router.batch.messages import RouteItem, RoutingAsk
from apportion.router.budget import Account
from apportion.router.errors import ApportionError
from tests.deployments.local_router import NAMES, LocalService, configuration, worst_usd

# What a client can be told; a code of a 5xx is none of them, since nothing here is broken.
CODES = {
    "budget_exceeded",
    "budget_exhausted",
    "context_length_exceeded",
    "no_feasible_assignment",
    "overloaded",
    "unavailable",  # a share that is too small for now
}
asks = st.builds(
    RoutingAsk,
    max_cost_usd=st.none() | st.sampled_from([0.0, 1e-5, 1.0]),
    min_success=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    models=st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(tuple),
    wait_for_budget=st.booleans(),
)
requests = st.fixed_dictionaries(
    {
        "model": st.none() | st.sampled_from(NAMES),
        "max_tokens": st.none() | st.integers(1, 120),
        "sequences": st.sampled_from([1, 1, 1, 2, 7]),
        "ask": st.just(RoutingAsk()) | asks,
        "account": st.builds(Account, st.none() | st.just("k"), st.none() | st.sampled_from(["a", "b"]), st.none()),
        "priority": st.integers(-3, 3),
        "unread_prompt": st.booleans(),
        "timeout_s": st.just(0.5),
    }
)
fates = st.fixed_dictionaries(
    {
        "after_s": st.none() | st.sampled_from([0.0, 0.001, 0.01, 0.03]),
        "told": st.booleans(),
        "share": st.sampled_from([0.0, 0.5, 1.0]),
    }
)
limits = st.lists(
    st.fixed_dictionaries(
        {
            "scope": st.sampled_from(["service", "key", "tenant", "model"]),
            "window": st.sampled_from(["minute", "day", "month", "total"]),
            "usd": st.sampled_from([0.0, worst_usd("wren", 20), 10 * worst_usd("heron", 20), 1.0]),
        }
    ),
    max_size=4,
)


concurrency = st.lists(
    st.sampled_from(
        [
            {"name": "few", "at_most": 2, "models": ["wren", "finch"]},
            {"name": "kv", "of": "tokens", "at_most": 150, "models": ["lark"]},
            {"name": "unnamed", "of": "requests", "at_most": 3, "tenants": ["unnamed"]},
            {"name": "half", "share": 0.5},
        ]
    ),
    max_size=3,
    unique_by=lambda limit: str(limit["name"]),
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    batch=st.lists(st.tuples(requests, fates), min_size=1, max_size=24),
    limits=limits,
    concurrency=concurrency,
    slots=st.integers(1, 8),
)
def test_whatever_comes_is_answered_and_nothing_leaks(
    tmp_path_factory: pytest.TempPathFactory, batch: list[Any], limits: list[Any], concurrency: list[Any], slots: int
) -> None:
    asyncio.run(serve(tmp_path_factory.mktemp("fuzz"), batch, limits, concurrency, slots))


async def serve(folder: Path, batch: list[Any], limits: list[Any], concurrency: list[Any], slots: int) -> None:
    sections = {"budget": {"limits": limits}, "routing": {"concurrency_limits": concurrency}}
    service = LocalService(configuration(folder / "b.db", slots=slots, **sections))
    await service.announce()

    async def client(i: int, request: dict[str, Any], fate: dict[str, Any]) -> str:
        item = RouteItem(id=f"r{i}", **request)
        work = asyncio.create_task(
            service.run(item, engine_s=0.01, share=fate["share"] / item.sequences, told=fate["told"])
        )
        patience_s = request["timeout_s"] if fate["after_s"] is None else fate["after_s"]
        done, _ = await asyncio.wait({work}, timeout=patience_s)
        if not done:
            work.cancel()
            await asyncio.wait({work})
            return "left"
        return work.result()

    try:
        answers = await asyncio.gather(*(client(i, *one) for i, one in enumerate(batch)))
        assert set(answers) <= CODES | {*NAMES, "left"}
        state = await service.idle_state()
        assert (state["in_flight"], state["waiting"], state["waiting_for_budget"]) == (0, 0, 0)
        assert all(model["free_slots"] == model["slots"] for model in state["models"].values())
        assert all(limit["in_flight"] == 0 for limit in state["concurrency_limits"].values())
        money = state["budget"]
        assert (money["reserved_usd"], money["overruns"]) == (0, 0)
        assert money["spent_usd"] >= service.generated_usd * (1 - 1e-9)
        for limit in money["limits"]:
            assert limit["spent_usd"] <= limit["usd"]
    except ApportionError as error:
        raise AssertionError(error.message) from error
    finally:
        await service.close()
