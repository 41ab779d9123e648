"""The real Router, planner and ledger in this process: only predictor and engines are played."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.service import ServiceConfig, parse_config
from apportion.deployments.control.router import Router
from apportion.deployments.ingress.forecasting import forecaster_of
from apportion.deployments.ingress.link import RouterLink
from apportion.router.assignment import Assignment, BatchProblem, Strategy, assign
from apportion.router.batch.forecasting.forecaster import Forecaster
from apportion.router.batch.messages import Decision, Done, EngineReplica, Report, RouteItem, Verdict
from apportion.router.batch.prompt import Prompt
from apportion.router.errors import ApportionError
from apportion.router.unpriced import Unpriced, concatenate

NAMES = ("wren", "finch", "lark", "heron")
PRICES = (1.0, 2.0, 4.0, 8.0)  # USD per million tokens
CONTEXT = 100
INPUT_TOKENS = 10


def configuration(
    database: Path | None, *, slots: int = 64, newcomers: Sequence[dict[str, Any]] = (), **sections: Any
) -> ServiceConfig:
    """Args: newcomers: fields of models behind the others, which the predictor does not know."""
    models = [
        {
            "name": name,
            "source": "x",
            "input_usd_per_million": price,
            "output_usd_per_million": price,
            "max_model_len": CONTEXT,
            "max_num_seqs": slots,
        }
        for name, price in zip(NAMES, PRICES, strict=True)
    ]
    models += [models[0] | newcomer for newcomer in newcomers]
    if database is not None:
        sections["budget"] = {"database": f"sqlite:///{database}", **sections.get("budget", {})}
        if any(limit["scope"] == "key" for limit in sections["budget"].get("limits", ())):
            sections["keys"] = keys_file(database.parent / "keys.yaml", {"name": "k"})
    fixed = {"models": models, "predictor": {"artefact": "zoo:predictor"}, "router": {"host": "127.0.0.1"}}
    return parse_config(fixed | sections)


def keys_file(path: Path, *entries: dict[str, Any]) -> dict[str, str]:
    """Writes a file of keys, and returns the configuration's section for it."""
    hashed = [{"sha256": hashlib.sha256(entry["name"].encode()).hexdigest(), **entry} for entry in entries]
    path.write_text(yaml.safe_dump(hashed))
    return {"file": str(path)}


def worst_usd(model: str, max_tokens: int) -> float:
    return (INPUT_TOKENS + max_tokens) * PRICES[NAMES.index(model)] / 1e6


class _Remote:
    """A deployment handle's method."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class DearIsGood:
    """Dearer models are better; answers take half of what they may."""

    async def predict(self, prompts: Sequence[Prompt], models: tuple[str, ...], bulk: bool = False) -> Unpriced:
        return forecast_of(prompts, models)


def forecast_of(prompts: Sequence[Prompt], models: tuple[str, ...]) -> Unpriced:
    n, m = len(prompts), len(models)
    most = np.array([prompt.max_tokens or CONTEXT - INPUT_TOKENS for prompt in prompts], dtype=float)
    tokens = np.repeat(most[:, None] / 2, m, axis=1)
    success = np.clip(np.linspace(0.3, 0.9, m) + np.random.default_rng(n).normal(0, 0.1, (n, m)), 0, 1)
    nothing = np.zeros((n, m))
    return Unpriced(models, np.stack([success, nothing, nothing + INPUT_TOKENS, tokens, tokens, nothing]))


class _Solver:
    def __init__(self) -> None:
        self.solve = _Remote(self._solve)

    async def _solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        return assign(problem, strategy)


def expected(*items: RouteItem) -> Unpriced:
    """What `DearIsGood` says of them."""
    return forecast_of([Prompt("x", max_tokens=item.max_tokens) for item in items], NAMES)


def report(ingress: str, number: int = 0, *, items: tuple[RouteItem, ...] = (), **fields: Any) -> Report:
    """A report with the forecast of its items."""
    return Report(ingress, number, items=items, forecast=expected(*items) if items else None, **fields)


class Line(RouterLink):
    """Knows what to expect of requests where a test does not say it."""

    async def plan(self, item: RouteItem, forecast: Unpriced | None = None) -> Decision:
        return await super().plan(item, forecast or expected(item))


def make_router(config: ServiceConfig) -> Any:
    router = Router.func_or_class(config, _Solver(), {}, {})
    router.reconfigure(config.routing.model_dump())
    return router


def handle_of(router: Any) -> Any:
    """What an ingress uses of the router's deployment handle."""
    methods = {name: _Remote(getattr(router, name)) for name in ("address", "state", "admit_plans", "route", "console")}
    return SimpleNamespace(router=router, **methods)


async def close_router(router: Any) -> None:
    router._listener.close()
    router._housekeeping.stop()
    await router._scheduler.drain()
    router._reservations.spending.close()


@dataclass
class LocalService:
    """A router, and one ingress's lines to it and to the predictor; `generated_usd` is what engines have worked."""

    config: ServiceConfig
    predictor: Any = field(default_factory=DearIsGood)
    router: Any = None
    link: Line = field(init=False)
    forecaster: Forecaster = field(init=False)
    generated_usd: float = 0.0

    def __post_init__(self) -> None:
        self.router = make_router(self.config)
        self.forecaster = forecaster_of(self.config, self.predictor.predict, Knowledge.of(self.config).mean_success)
        self.link = Line(lambda report, wait: self.router.exchange(report, wait), lambda: self.forecaster.state)
        self._beat = asyncio.create_task(self._heartbeats())

    async def _heartbeats(self) -> None:
        while True:
            await self.announce()
            await asyncio.sleep(1)

    async def announce(self) -> None:
        for model in self.config.models:
            if not model.may_sleep:
                await self.router.announce(
                    EngineReplica(f"{model.name}-0", model.name, "http://nowhere", model.max_num_seqs)
                )

    async def run(self, item: RouteItem, *, engine_s: float = 0.0, share: float = 1.0, told: bool = True) -> str:
        """One request as an ingress serves it: the model that answered, or the code of the error.

        Args:
            share: of the longest answer that the engine gives.
            told: whether the engine tells what it cost.
        """
        try:
            decision = await self.plan(item)
        except ApportionError as error:
            return error.code
        done = Done(decision.id, None)
        try:
            longest = decision.max_tokens or item.max_tokens or CONTEXT - INPUT_TOKENS
            cost_usd = worst_usd(decision.model, round(longest * share))
            self.generated_usd += cost_usd
            await asyncio.sleep(engine_s * random.random())
            done = Done(decision.id, cost_usd if told else None)
        finally:
            self.link.finish(done)
        return decision.model

    async def plan(self, item: RouteItem) -> Decision:
        return await self.link.plan(item, await self.forecast(item))

    async def forecast(self, *items: RouteItem) -> Unpriced:
        """Of requests with the same prompt."""
        asked = (self.forecaster.forecast(item, Prompt("x", max_tokens=item.max_tokens)) for item in items)
        return concatenate(await asyncio.gather(*asked))

    async def route(self, items: Sequence[RouteItem]) -> list[Verdict]:
        """As `/v1/route` has them planned."""
        await self.router.admit_plans(items[0].account, len(items))
        verdicts: list[Verdict] = await self.router.route(items, await self.forecast(*items))
        return verdicts

    async def idle_state(self) -> dict[str, Any]:
        """Numbers once everything has ended, and no engine has said what it was asked for."""
        for _ in range(200):
            await asyncio.sleep(0.02)
            state = await self.router.state()
            if state["in_flight"] == state["waiting"] == state["waiting_for_budget"] == 0:
                break
        reservations = self.router._reservations
        for request_id, (replica, _) in reservations._unsettled._held.items():
            reservations._unsettled._held[request_id] = replica, float("-inf")
        reservations.charge_overdue()
        await asyncio.sleep(0.02)
        numbers: dict[str, Any] = await self.router.state()
        return numbers

    async def close(self) -> None:
        self._beat.cancel()
        self.forecaster.close()
        await self.link.close()
        await close_router(self.router)
