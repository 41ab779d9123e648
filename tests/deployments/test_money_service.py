"""Money on a real Ray Serve application with simulated engines, beside the service that the other tests use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
import yaml

from apportion.deployments.cluster.launch import deploy
from apportion.deployments.keys.keyring import new_key
from apportion.deployments.observability.alerts import alerts, rules
from apportion.router.budget import Account, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.standing import Standing
from tests.deployments.observability.prometheus import prometheus
from tests.deployments.observability.scraped import Scraped
from tests.deployments.observability.vllm_metrics import VLLM
from tests.deployments.processes import hung, replicas
from tests.deployments.service import MODELS, Service, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

PREFIX = "/money"
SLEEPER = "owl"
TOKENS = 16
EACH_NANO = 16_000_000  # 16 tokens at 1000 USD a million; input is free
BUDGET_NANO = 300 * EACH_NANO


@dataclass(frozen=True)
class Money:
    """The application with a budget: where it answers, its ledger's file, and a key that may use one model."""

    url: str
    database: str
    key: str
    poor_key: str
    operator_key: str

    def headers(self, tenant: str, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}", "x-router-tenant": tenant}

    def chat(self, tenant: str = "t", key: str | None = None, **fields: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/chat/completions", json=body(**fields), headers=self.headers(tenant, key), timeout=60
        )

    def metrics(self) -> Scraped:
        """As whoever scrapes it reads it, from whichever ingress; not twice within a second."""
        time.sleep(1.1)
        headers = {"authorization": f"Bearer {self.operator_key}"}
        return Scraped(httpx.get(f"{self.url}/metrics", headers=headers, timeout=30).text)

    def spent_nano(self) -> int:
        """By whomever, from the database itself."""
        ledger = BudgetLedger(self.database)
        total = ledger.look([Account()], ["heron"], now_s=time.time(), ends={}).total()
        ledger.close()
        return total.spent_nano

    def balance(self, tenant: str) -> tuple[int, int]:
        """What the tenant has spent and reserved in nano-USD, from the database itself."""
        ledger = BudgetLedger(self.database)
        standing: Standing = ledger.statement(now_s=time.time())
        ledger.close()
        found = [b for key, b in standing.balances.items() if key.name == tenant]
        return (found[0].spent_nano, found[0].reserved_nano) if found else (0, 0)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "heron", "messages": [{"role": "user", "content": "x"}], "max_tokens": TOKENS} | fields


def application(folder: Path) -> tuple[dict[str, Any], str, str, str]:
    (key, digest), (poor_key, poor_digest), (operator_key, operator_digest) = new_key(), new_key(), new_key()
    keys = [
        {"name": "rich", "sha256": digest, "tenant_header": True},
        {"name": "operator", "sha256": operator_digest, "operator": True},
        {"name": "poor", "sha256": poor_digest, "models": ["wren"], "requests_per_minute": 12, "tenant_header": True},
    ]
    (folder / "keys.yaml").write_text(yaml.safe_dump(keys))
    engine = {"engine": "simulated", "simulated": {"tokens": TOKENS, "first_token_s": 0.05}}
    price = {"input_usd_per_million": 0, "output_usd_per_million": 1000}
    shape = {"source": "x", "max_model_len": 256, "max_num_seqs": 64, "num_cpus": 0.01}
    models = [{"name": name, **shape, **price, **engine} for name in MODELS]
    for model in models:  # the predictor counts tokens with each model's own tokenizer
        model["source"] = f"zoo:{model['name']}"
    sleeper = {"name": SLEEPER, "source": "zoo:wren", "max_model_len": 256, **price, **engine}
    models.append(sleeper | {"replica_groups": [{"name": "all", "min_replicas": 0, "num_cpus": 0.01}]})
    args = {
        "models": models,
        "predictor": {"artefact": "zoo:predictor", "num_cpus": 0.01},
        "solver": {"num_cpus": 0.01},
        "router": {"num_cpus": 0.01},
        "ingress": {"num_cpus": 0.01, "num_replicas": 2},
        "dispatch": {"engine_host": "127.0.0.1"},
        "budget": {
            "database": f"sqlite:///{folder}/budget.db",
            "limits": [{"scope": "tenant", "window": "total", "usd": BUDGET_NANO / 1e9}],
        },
        "keys": {"file": str(folder / "keys.yaml")},
        "metrics": {"bridge": True},
    }
    described = {
        "name": "money",
        "route_prefix": PREFIX,
        "import_path": "apportion.deployments.app:build",
        "args": args,
    }
    return described, key, poor_key, operator_key


@pytest.fixture(scope="module")
def money(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Money]:
    folder = tmp_path_factory.mktemp("money")
    described, *keys = application(folder)
    both = json.loads(json.dumps(service.document))
    both["applications"].append(described)
    deploy(both)
    url = f"{service.url}{PREFIX}"
    wait_for(lambda: answers(f"{url}/health"), 200, "the application with a budget has started")
    yield Money(url, f"sqlite:///{folder}/budget.db", *keys)
    deploy(service.document)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:  # it is there, but not its router
        return False


async def storm(money: Money, tenant: str, n: int) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=n, max_keepalive_connections=n)
    async with httpx.AsyncClient(timeout=120, limits=limits, headers=money.headers(tenant)) as client:
        url = f"{money.url}/v1/chat/completions"
        return await asyncio.gather(*(client.post(url, json=body()) for _ in range(n)))


def generated_nano(answers: list[httpx.Response]) -> int:
    return sum(to_nano(float(a.headers["x-router-settled-cost-usd"])) for a in answers if a.status_code == 200)


def settled(money: Money, tenant: str) -> tuple[int, int]:
    deadline_s = time.monotonic() + 30
    while (balance := money.balance(tenant))[1] and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return balance


def test_a_thousand_requests_against_money_for_three_hundred(money: Money) -> None:
    answers = asyncio.run(storm(money, "crowd", 1000))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 300, statuses
    assert statuses[402] + statuses[429] == 700, statuses
    assert generated_nano(answers) == BUDGET_NANO
    assert settled(money, "crowd") == (BUDGET_NANO, 0)
    errors = [answer.json()["error"] for answer in answers if answer.status_code != 200]
    assert {error["type"] for error in errors} == {"insufficient_quota"}
    assert all("for tenant 'crowd'" in error["message"] for error in errors)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
    assert money.chat("crowd").status_code == 402


def test_a_router_killed_in_the_middle_forgets_nothing(money: Money) -> None:
    async def storm_and_kill() -> list[httpx.Response]:
        work = asyncio.create_task(storm(money, "killed", 600))
        deadline_s = time.monotonic() + 30
        while sum(money.balance("killed")) < BUDGET_NANO / 10:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        os.kill(router_process().pid, signal.SIGKILL)
        return await work

    answers = asyncio.run(storm_and_kill())
    statuses = Counter(answer.status_code for answer in answers)
    generated = generated_nano(answers)
    spent, reserved = money.balance("killed")
    assert spent + reserved >= generated
    assert spent + reserved <= BUDGET_NANO
    assert set(statuses) <= {200, 402, 429, 503, 504}, statuses
    assert statuses[200] >= 250, statuses
    spent, reserved = settled(money, "killed")
    assert reserved == 0, "the ingress has told the new router of every end"
    assert generated <= spent <= BUDGET_NANO
    assert money.chat("after").status_code == 200


def router_process() -> psutil.Process:
    return next(p for p in replicas("Router") if "ServeReplica:money:" in " ".join(p.cmdline()))


def test_the_answer_without_a_key_is_401_and_with_the_wrong_model_403(money: Money) -> None:
    assert money.chat(key="nobody").status_code == 401
    assert httpx.get(f"{money.url}/v1/models").status_code == 401
    assert httpx.post(f"{money.url}/v1/route", json={"requests": [body()]}).status_code == 401
    forbidden = money.chat(key=money.poor_key)
    assert (forbidden.status_code, forbidden.json()["error"]["code"]) == (403, "model_not_allowed")
    assert money.chat(key=money.poor_key, model="auto").headers["x-router-model"] == "wren"
    mine = httpx.get(f"{money.url}/v1/models", headers=money.headers("t", money.poor_key)).json()
    assert [model["id"] for model in mine["data"]] == ["auto", "wren"]


def test_what_is_told_of_paths_has_the_prefix(money: Money) -> None:
    missing = httpx.get(f"{money.url}/v1/nothing").json()["error"]["message"]
    assert missing == f"GET {PREFIX}/v1/nothing: Not Found; see {PREFIX}/docs for what is served here"
    assert httpx.get(f"{money.url}/docs").status_code == 200
    nobody = httpx.get(f"{money.url}/v1/models/nobody", headers=money.headers("t")).json()["error"]["message"]
    assert nobody.endswith(f"GET {PREFIX}/v1/models lists those that do")
    joined = f"{money.url}//v1/models/"  # a base that ends with a slash
    assert httpx.get(joined, headers=money.headers("t")).status_code == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_back(money: Money) -> None:
    answers = [money.chat(key=money.poor_key, model="wren") for _ in range(3)]
    slowed = [answer for answer in answers if answer.status_code == 429]
    assert slowed
    assert slowed[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(slowed[0].headers["retry-after"]) <= 6


def test_the_ledger_knows_who_paid(money: Money) -> None:
    assert money.chat("payer").status_code == 200
    assert settled(money, "payer") == (EACH_NANO, 0)
    assert money.spent_nano() >= EACH_NANO


def test_metrics_are_monotone_whichever_ingress_tells_them_and_sum_up_to_answers_and_ledger(money: Money) -> None:
    async def load() -> list[httpx.Response]:
        fields = {"url": f"{money.url}/v1/chat/completions", "headers": money.headers("counted", money.key)}
        async with httpx.AsyncClient(timeout=120) as client:
            crowds = await asyncio.gather(
                storm(money, "a", 150),
                storm(money, "b", 310),  # some more than there is money for
                asyncio.gather(*(client.post(**fields, content=b"{") for _ in range(25))),
                asyncio.gather(*(client.post(fields["url"], json=body()) for _ in range(15))),
            )
        return [answer for crowd in crowds for answer in crowd]

    pages, spent_nano = [money.metrics()], money.spent_nano()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(asyncio.run, load())
        while not loading.done():
            pages.append(money.metrics())
    answers = loading.result()
    for tenant in ("a", "b"):
        settled(money, tenant)
    pages.extend(money.metrics() for _ in range(3))

    assert [fallen for earlier, later in pairwise(pages) for fallen in later.falls_behind(earlier)] == []

    def risen(name: str, **labels: str) -> float:
        return pages[-1].value(name, **labels) - pages[0].value(name, **labels)

    statuses = Counter(answer.status_code for answer in answers)
    assert (statuses[200], statuses[400], statuses[401], statuses[402] + statuses[429]) == (450, 25, 15, 10), statuses
    assert risen("apportion_requests_total", model="heron", outcome="answered") == 450
    codes = Counter(answer.json()["error"]["code"] for answer in answers if answer.status_code != 200)
    assert {code: risen("apportion_refused_total", code=code) for code in codes} == codes
    assert risen("apportion_requests_total") + risen("apportion_refused_total") == len(answers) == 500
    assert risen("apportion_first_byte_seconds_count", model="heron") == 450
    counted_nano = round(pages[-1].value("apportion_spent_usd_total") * 1e9)
    counted_nano -= round(pages[0].value("apportion_spent_usd_total") * 1e9)
    assert counted_nano == generated_nano(answers) == money.spent_nano() - spent_nano


def test_a_model_that_sleeps_is_woken_by_who_names_it(money: Money) -> None:
    def told(path: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {money.operator_key}"}
        found: dict[str, Any] = httpx.get(f"{money.url}{path}", headers=headers, timeout=30).json()
        return found

    wait_for(lambda: bool(told("/health")["healthy"]), 60, "a service whose model sleeps is healthy")
    assert SLEEPER in told("/ready")["asleep"]
    assert told(f"/v1/models/{SLEEPER}")["asleep"]
    assert money.chat("night", model=SLEEPER, routing={"timeout_s": 0.5}).status_code == 504
    answer = money.chat("night", model=SLEEPER)
    assert (answer.status_code, answer.headers["x-router-model"]) == (200, SLEEPER), answer.text
    wait_for(lambda: told("/ready")["asleep"] == [], 10, "it is known to be awake")
    assert money.balance("night") == (EACH_NANO, 0)


def ray_agent() -> str:
    """Where Ray's agent tells the metrics of all processes of its node."""
    (node,) = ray.nodes()
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def test_prometheus_scrapes_the_service_and_its_engines_and_an_alert_fires(
    money: Money, service: Service, tmp_path: Path
) -> None:
    prefix, host = PREFIX, service.url.removeprefix("http://")
    jobs = [
        {
            "job_name": "apportion",
            "metrics_path": f"{prefix}/metrics",
            "authorization": {"credentials": money.operator_key},
            "static_configs": [{"targets": [host]}],
        },
        {"job_name": "engines", "http_sd_configs": [{"url": f"{service.url}/metrics/targets"}]},
        {"job_name": "ray", "static_configs": [{"targets": [ray_agent()]}]},
    ]
    hurried = rules(alerts(window="6s"), pace=0.005)  # ten minutes are three seconds
    with prometheus(tmp_path, jobs, hurried) as scraping:
        engines = {(model,) for model in MODELS}
        wait_for(lambda: set(scraping.query('up{job="engines"} == 1')) == engines, 30, "the engines are found")
        running = "max by (model) (vllm:num_requests_running)"
        wait_for(lambda: set(scraping.query(running)) == engines, 30, "the engines tell")
        assert {name for name in VLLM if not scraping.query(f"count({name})")} == set()
        spent_usd = money.metrics().value("apportion_spent_usd_total")
        assert scraping.query("sum(apportion_spent_usd_total)") == {(): pytest.approx(spent_usd)}
        (group,) = scraping.get("rules")["groups"]
        assert {rule["name"]: rule["health"] for rule in group["rules"]} == {alert.name: "ok" for alert in alerts()}
        assert "ApportionRungBelow" not in scraping.firing()
        predictor = next(p for p in replicas("Predictor") if "ServeReplica:money:" in " ".join(p.cmdline()))
        with hung(predictor):

            def fires() -> bool:
                assert money.chat("alarmed").status_code == 200
                return "ApportionRungBelow" in scraping.firing()

            wait_for(fires, 30, "the alert fires")
        told = "sum by (WorkerId) (ray_apportion_requests_total)"  # a router that was killed may be told of still
        counted = "sum(apportion_requests_total)"
        wait_for(lambda: scraping.query(counted)[()] in scraping.query(told).values(), 60, "Ray is told")
    wait_for(lambda: answers(f"{money.url}/health"), 60, "the predictor is asked again")
