"""A provider behind the whole service: its limits used and kept, its bill the ledger's, its key nowhere.

With APPORTION_SOAK=1 the limits are tried for a minute each, as what docs/external.md tells was measured.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.engine.external.asking import external_model
from tests.deployments.engine.external.whole import Whole, whole
from tests.deployments.fake_provider import KEY, Running
from tests.deployments.ingress.dispatching import Browser

PER_MINUTE = 600
SECONDS = 60.0 if os.environ.get("APPORTION_SOAK") else 3.0


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)


async def load(service: Whole, seconds: float, per_second: float, **fields: Any) -> list[Browser]:
    """Asks steadily, every other time for a stream; the answers."""
    asked: list[asyncio.Task[Browser]] = []
    began_s = time.monotonic()
    while (now_s := time.monotonic() - began_s) < seconds:
        while len(asked) < per_second * now_s:
            asked.append(asyncio.create_task(service.ask(stream=len(asked) % 2 == 0, max_tokens=20, **fields)))
        await asyncio.sleep(0.01)
    return await asyncio.gather(*asked)


@pytest.mark.parametrize(
    "limits",
    [{"requests_per_minute": PER_MINUTE}, {"tokens_per_minute": 26.0 * PER_MINUTE}],
    ids=["requests", "tokens"],
)
async def test_at_three_times_a_limit_it_is_used_and_kept_and_nobody_is_refused(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limits: dict[str, float]
) -> None:
    provider.behave(**limits, token_s=0.02, first_token_s=0.1, tokens=20, cached_share=0.3)
    async with whole(monkeypatch, tmp_path, external_model(provider, name="heron", **limits)) as service:
        answers = await load(service, SECONDS, 3 * PER_MINUTE / 60)
        spent_nano = await service.spent_nano()
    report = provider.report()
    used = (report["asked"] - report["refused"]) / (PER_MINUTE / 60 * SECONDS)
    print(f"{limits} {SECONDS:g} s: sent {report['asked']}, refused {report['refused']}, used {used:.3f} of the quota")
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert report["refused"] <= 0.01 * report["asked"]
    assert used >= (0.9 if SECONDS >= 60 else 0.3)  # so short, it is the machine that is measured
    assert spent_nano == report["bill_nano"] > 0


async def test_who_names_the_model_waits_for_its_limit(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody told the service of the limit: refusals teach it, and no client sees one."""
    provider.behave(requests_per_minute=1200, refusal="ms")
    async with whole(monkeypatch, tmp_path, external_model(provider, name="heron")) as service:
        answers = await asyncio.gather(*(service.ask(model="heron", max_tokens=5) for _ in range(60)))
        assert Counter(answer.status for answer in answers) == {200: 60}
        assert provider.report()["refused"] > 0
        state = await service.settled()
        assert {one["breaker"] for one in state["replicas"].values()} == {"closed"}
        assert await service.spent_nano() == provider.report()["bill_nano"]
        page = (await service.router.metrics()).decode()
    busy = next(line for line in page.splitlines() if line.startswith('apportion_busy_total{model="heron"}'))
    assert float(busy.split()[-1]) > 0


@pytest.mark.parametrize("refusal", ["seconds", "date", "ms", "reset", "azure", "none"])
async def test_another_model_answers_what_a_provider_refuses(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: str
) -> None:
    provider.behave(requests_per_minute=1, refusal=refusal)  # none at all, of whole seconds
    async with whole(monkeypatch, tmp_path, external_model(provider, name="heron"), retries=0) as service:
        answers = await asyncio.gather(*(service.ask(max_tokens=5) for _ in range(20)))
        assert Counter(answer.headers["x-router-model"] for answer in answers) == {"wren": 20}
        assert await service.spent_nano() == 0


async def test_the_key_is_nowhere(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with whole(monkeypatch, tmp_path, external_model(provider, name="heron"), retries=0) as service:
        for fault in ({}, {"error": 400}, {"error": 500}, {"cut_after": 2}, {"keys": ["another"]}):
            provider.behave(**fault)
            for stream in (False, True):
                answer = await service.ask(2.0, model="heron", stream=stream, max_tokens=9)
                seen += [str(answer.status), json.dumps(answer.headers), answer.body.decode()]
        state = await service.router.state()
        seen += [json.dumps(state), (await service.router.metrics()).decode()]
        seen.append(json.dumps(await service.router.console()))
        assert state["replicas"]["heron#all"]["trouble"] == "credentials refused"
        assert 'apportion_provider_trouble{model="heron",trouble="credentials refused"} 1' in seen[-2]
        answers = await asyncio.gather(*(service.ask(max_tokens=5) for _ in range(5)))
        assert {answer.headers["x-router-model"] for answer in answers} == {"wren"}
    seen.append(caplog.text)
    seen += await asyncio.to_thread(_kept, tmp_path)
    assert "credentials refused" in caplog.text
    assert not [text[:200] for text in seen if KEY in text]


def _kept(folder: Path) -> list[str]:
    """What the machine shows of processes, and what files hold."""
    processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True)
    return [processes.stdout, *(file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file())]


async def test_accounts_are_replicas_and_each_uses_its_own_limit(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other-123456")
    provider.behave(keys=[KEY, "sk-other-123456"], first_token_s=0.1)
    accounts = [
        {"name": "a", "api_key_env": "FAKE_KEY", "requests_per_minute": 300},
        {"name": "b", "api_key_env": "OTHER_KEY", "requests_per_minute": 600},
    ]
    heron = external_model(provider, name="heron")
    assert heron.external is not None
    own = heron.external.model_dump(exclude={"api_key_env", "api_key_file", "requests_per_minute", "tokens_per_minute"})
    several = heron.model_validate(heron.model_dump(exclude={"external"}) | {"external": own | {"accounts": accounts}})
    async with whole(monkeypatch, tmp_path, several) as service:
        began_s = time.monotonic()
        await load(service, 2.0, 30.0)
        took_s = time.monotonic() - began_s
    asked = provider.report()["by_key"]
    assert 1 <= asked[KEY] <= 5 * took_s + 1
    assert 1 <= asked["sk-other-123456"] <= 10 * took_s + 1


async def test_what_clients_leave_costs_the_worst_case_and_holds_no_slot(
    provider: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider.behave(token_s=0.05, tokens=100)
    async with whole(monkeypatch, tmp_path, external_model(provider, name="heron")) as service:
        await asyncio.gather(*(service.ask(0.4, model="heron", stream=i % 2 == 0, max_tokens=100) for i in range(6)))
        assert await service.spent_nano() >= provider.report()["bill_nano"] > 0
        assert service.engines[1]._backend._account._quota.running == 0
        async with asyncio.timeout(3):
            while provider.report()["open"]:
                await asyncio.sleep(0.02)
