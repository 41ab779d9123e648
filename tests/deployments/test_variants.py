"""Variants end to end: the real ingress and Router, a simulated engine behind its own port, and a played predictor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from apportion.deployments.config.keys import KeyEntry
from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.service import ServiceConfig, parse_config
from apportion.deployments.config.variants import VARIANT_FIELDS
from apportion.deployments.engine.simulated import SimulatedEngine
from apportion.deployments.ingress.known_fields import CHAT_FIELDS, Kind
from apportion.deployments.ingress.variants import merged, unfit
from apportion.deployments.keys.caller import Caller
from apportion.router.batch.messages import EngineReplica
from apportion.router.errors import ArtefactError, ConfigurationError
from tests.deployments.ingress.dispatching import serving
from tests.deployments.ingress.whole import whole_service

THINK = {"chat_template_kwargs": {"enable_thinking": True}}
FAST = {"chat_template_kwargs": {"enable_thinking": False}}
VARIANTS = [
    {"name": "fast", "request": FAST, "prior_success": 0.5},
    {"name": "think", "request": THINK, "max_tokens": 64, "prior_success": 0.8},
]
ANSWER, THOUGHT, SLOTS = 4, 100, 3


def configuration(variants: Any = VARIANTS, name: str = "qwen", **sections: Any) -> ServiceConfig:
    common = {"source": "zoo:wren", "input_usd_per_million": 1, "output_usd_per_million": 2, "max_model_len": 256}
    played = {"tokens": ANSWER, "thinking_tokens": THOUGHT, "first_token_s": 0.02}
    qwen = common | {"name": name, "engine": "simulated", "simulated": played, "max_num_seqs": SLOTS}
    models = [qwen | {"variants": variants}, common | {"name": "finch"}]
    fixed = {"models": models, "predictor": {"artefact": "zoo:predictor"}, "router": {"host": "127.0.0.1"}}
    return parse_config(fixed | sections)


class Counted:
    """An engine that knows how many requests were in it at once at most."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._now = 0
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


@asynccontextmanager
async def service(config: ServiceConfig) -> AsyncIterator[tuple[httpx.AsyncClient, Counted]]:
    engine = Counted(SimulatedEngine(config.models[0]).app)
    async with (
        serving(engine) as server,
        whole_service(config, [EngineReplica("qwen#1", "qwen", server.url, SLOTS)]) as front,
        httpx.AsyncClient(base_url=front.server.url, timeout=30) as client,
    ):
        yield client, engine


async def chat(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "What is 1 plus 1?"}], **fields}
    return await client.post("/v1/chat/completions", json=body)


async def test_variants_are_asked_named_and_pinned() -> None:
    async with service(configuration()) as (client, engine):

        async def answered(model: str, **fields: Any) -> tuple[str, int]:
            told = await chat(client, model, **fields)
            assert told.status_code == 200, told.text
            assert told.json()["model"] == "qwen"
            return told.headers["x-router-model"], told.json()["usage"]["completion_tokens"]

        assert await answered("qwen@fast") == ("qwen@fast", ANSWER)
        assert await answered("qwen@think") == ("qwen@think", 64), "its own limit, since the client has none"
        assert await answered("qwen@think", max_tokens=10) == ("qwen@think", 10)
        assert await answered("qwen@think", max_tokens=1000) == ("qwen@think", 64)
        # What a client says itself pins the variant that says the same.
        assert await answered("qwen", **THINK) == ("qwen@think", 64)
        assert await answered("auto", **FAST) == ("qwen@fast", ANSWER)
        assert (await answered("qwen"))[0] in ("qwen@fast", "qwen@think")

        refused = await chat(client, "qwen@fast", **THINK)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "chat_template_kwargs.enable_thinking"
        assert "qwen@fast: sets chat_template_kwargs.enable_thinking otherwise" in refused.json()["error"]["message"]
        assert (await chat(client, "qwen@slow")).status_code == 404

        told = await client.get("/v1/models")
        assert told.status_code == 200, told.text
        listed = {one["id"]: one for one in told.json()["data"]}
        assert list(listed) == ["auto", "qwen", "qwen@fast", "qwen@think", "finch"]
        assert listed["qwen"]["variants"] == ["qwen@fast", "qwen@think"]
        assert (await client.get("/v1/models/qwen@think")).json()["input_usd_per_million"] == 1

        plan = {"requests": [{"messages": [{"role": "user", "content": "hi"}], "model": "qwen", **THINK}]}
        (planned,) = (await client.post("/v1/route", json=plan)).json()["data"]
        candidates = {one["model"]: one["reason"] for one in planned["candidates"]}
        assert planned["model"] == "qwen@think"
        assert list(candidates) == ["qwen@fast", "qwen@think", "finch"]
        assert candidates["qwen@fast"] == "sets chat_template_kwargs.enable_thinking otherwise than the request"

        names = ("qwen", "qwen@fast", "qwen@think", "auto")
        answers = await asyncio.gather(*(chat(client, name) for name in names * 6))
        assert {answer.status_code for answer in answers} == {200}
        assert engine.most <= SLOTS, "variants share the slots"
        async with asyncio.timeout(10):  # the last ends are told with the next exchange
            while (models := (await client.get("/health")).json()["models"])["qwen"]["free_slots"] < SLOTS:
                await asyncio.sleep(0.1)
        assert models["qwen"]["free_slots"] == models["qwen"]["slots"] == SLOTS
        assert "qwen@think" not in models


def test_keys_name_models_or_variants() -> None:
    config = configuration()
    one = Caller(permissions=KeyEntry(name="k", sha256="0" * 64, models=("qwen@think",)))
    every = Caller(permissions=KeyEntry(name="k", sha256="0" * 64, models=("qwen",)))
    assert [name for name in config.nameable if one.may_use(name)] == ["qwen", "qwen@think"]
    assert [name for name in config.nameable if every.may_use(name)] == ["qwen", "qwen@fast", "qwen@think"]


@pytest.mark.parametrize(
    ("kind", "asked", "fields", "why"),
    [
        ("chat", {}, THINK, None),
        ("chat", FAST, THINK, "chat_template_kwargs.enable_thinking"),
        ("chat", {"chat_template_kwargs": {"style": "short"}}, THINK, None),
        ("chat", {"temperature": 0.6}, {"temperature": 0.6}, None),
        ("chat", {"temperature": 0.7}, {"temperature": 0.6}, "temperature"),
        ("chat", {"reasoning_effort": "high"}, THINK, None),
        ("chat", {"reasoning_effort": "high"}, FAST, "chat_template_kwargs.enable_thinking"),
        ("response", {"reasoning_effort": "none"}, THINK, "chat_template_kwargs.enable_thinking"),
        ("completion", {}, {"temperature": 0.6}, None),
        ("completion", {}, THINK, "model"),
        ("tokenize", FAST, THINK, None),
    ],
)
def test_a_variant_is_for_requests_that_do_not_contradict_it(
    kind: Kind, asked: dict[str, Any], fields: dict[str, Any], why: str | None
) -> None:
    found = unfit(kind, asked, {"qwen@one": fields})
    assert {name: lack.param for name, lack in found.items()} == ({} if why is None else {"qwen@one": why})


def test_a_requests_own_values_stand() -> None:
    body = {"temperature": 0.2, "chat_template_kwargs": {"style": "short", "enable_thinking": False}}
    fields = THINK | {"temperature": 0.6, "top_p": 0.9}
    assert merged("chat", body, fields) == {
        "temperature": 0.2,
        "top_p": 0.9,
        "chat_template_kwargs": {"style": "short", "enable_thinking": False},
    }
    assert merged("tokenize", {"prompt": "x"}, fields) == {"prompt": "x", **THINK}
    assert VARIANT_FIELDS <= CHAT_FIELDS


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ([{"name": "a b"}], "variants.0.name"),
        ([{"name": "a"}, {"name": "a"}], "names \\['a'\\] appear more than once"),
        ([{"name": "a", "request": {"temprature": 0}}], "temprature: no field that a variant sets; the nearest is"),
        ([{"name": "a", "request": {"top_p": None}}], "top_p: null sets nothing"),
        ([{"name": "a", "request": {"chat_template_kwargs": 1}}], "chat_template_kwargs: give a mapping"),
        ([{"name": "a", "max_tokens": 0}], "max_tokens"),
    ],
)
def test_wrong_variants_are_named(variants: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        configuration(variants)


def test_names_of_models_hold_no_separator() -> None:
    with pytest.raises(ConfigurationError, match="stands between a model and its variant"):
        configuration(name="qwen@think")


def test_a_variant_counts_by_its_own_template_variables() -> None:
    fast, think, finch = configuration().columns
    assert (fast.tokenizer_source.variables, think.tokenizer_source.variables) == (
        {"enable_thinking": False},
        {"enable_thinking": True},
    )
    assert not finch.tokenizer_source.variables


def test_a_known_models_unknown_variants_are_refused(tmp_path: Path) -> None:
    unsaid = [{"name": "fast"}, {"name": "think", "prior_success": 0.5}]
    with pytest.raises(ArtefactError, match=r"models.wren.variants: .* knows wren and not wren@fast; train it on"):
        Knowledge.of(configuration(unsaid, name="wren"))
    assert Knowledge.of(configuration(name="wren")).by_name_only == frozenset()
    assert Knowledge.of(configuration([{"name": "fast"}])).by_name_only == {"qwen@fast"}


def test_a_plan_knows_the_variants_of_a_model() -> None:
    spec, other = (model.spec() for model in configuration().models)
    assert [(one.name, one.max_tokens, one.prior_success) for one in spec.columns] == [
        ("qwen@fast", None, 0.5),
        ("qwen@think", 64, 0.8),
    ]
    assert spec.columns[1].counting == {"default_chat_template_kwargs": {"enable_thinking": True}}
    assert other.columns == (other,)
