"""What a failure of each part costs, on a real Ray Serve application.

The engines are simulated, since timing matters here: 20 tokens take a second. Everything else is
the real thing: predictor, solver, router, two ingresses, HAProxy, and two replicas of each model.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rich.console import Console

from apportion.deployments import zoo
from apportion.deployments.cluster.launch import deploy, running_service
from tests.deployments.conftest import free_port
from tests.deployments.fake_replica import failing_replica
from tests.deployments.load import steady_load
from tests.deployments.processes import hung, kill, replicas
from tests.deployments.service import CONFIG, Service, holds_nothing, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

FIRST_MODELS, LATER_MODEL = ("wren", "heron"), "lark"
TOKENS = 20
FOUND_S = 30.0  # three checks of 5 s, two seconds before the first, and the start of the successor
ENDED_S = 12.0
# Between the two models' costs for the prompt, so that every batch needs the solver.
BUDGET_USD = 1e-5


def make_document(folder: Path, models: tuple[str, ...], port: int) -> dict[str, Any]:
    """The project's configuration for some of its models, simulated, with two replicas of what may have two."""
    document = yaml.safe_load(CONFIG.read_text())
    document["http_options"]["port"] = port
    args = document["applications"][0]["args"]
    del args["bulk"]  # nobody sends any
    args["models"] = [
        {key: value for key, value in model.items() if key != "engine_args"}
        | {
            "engine": "simulated",
            "simulated": {"tokens": 80, "first_token_s": 0.05, "token_s": 0.05},
            "num_replicas": 2,
            "num_cpus": 0.1,
        }
        for model in args["models"]
        if model["name"] in models
    ]
    args["predictor"] |= {"artefact": str(make_artefact(folder, models)), "timeout_s": 1.0}
    args["ingress"]["num_replicas"] = 2
    args["routing"]["budget_usd_per_request"] = BUDGET_USD
    return document


def make_artefact(folder: Path, models: tuple[str, ...]) -> Path:
    """The zoo's predictor for some of its models."""
    from apportion.router.prediction.calibrated import select
    from apportion.router.prediction.predictor import Predictor

    out = folder / "-".join(models)
    loaded = Predictor.load(zoo.PREDICTOR, device="cpu")
    replace(loaded, calibrated=select(loaded.calibrated, list(models))).save(out)
    return out


@pytest.fixture(scope="module")
def stop(alone: None) -> Iterator[contextlib.ExitStack]:
    """Stops the service when it is closed; the last test does so itself."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def service(stop: contextlib.ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("failures")
    document = make_document(folder, FIRST_MODELS, free_port())
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return Service(stop.enter_context(running_service(path, console=Console(quiet=True))), document)


@pytest.fixture(autouse=True)
def calm(service: Service) -> None:
    """Each test finds the service whole and idle, whatever the one before did to it."""
    wait_for(lambda: whole(service), 90, "every part is back and nothing is held")


def whole(service: Service) -> bool:
    state = service.health()
    return holds_nothing(state) and state["healthy"] and len(state["replicas"]) == 2 * len(state["models"])


def rung(service: Service) -> str:
    answer = service.chat(routing={"timeout_s": 10}, max_tokens=TOKENS)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-router-rung"])


def lower_rungs(service: Service) -> int:
    """Requests since the router's start that were planned without the solver."""
    rungs = service.health().get("rungs", {})
    return sum(rungs.get(name, 0) for name in ("price", "greedy"))


def test_a_hung_predictor_costs_a_rung_and_no_deadline(service: Service) -> None:
    wait_for(lambda: rung(service) == "mip", 30, "the predictor is asked")
    with hung(replicas("Predictor")[0]):
        assert rung(service) == "static"
        seconds = []
        for _ in range(7):  # each of the two ingresses finds it out
            started_s = time.monotonic()
            assert rung(service) == "static"
            seconds.append(time.monotonic() - started_s)
        assert min(seconds) < 1.8, f"a predictor that failed three times is not waited for: {seconds}"
        wait_for(lambda: service.health()["parts"]["predictor"] != "closed", 3, "it is left alone")
    wait_for(lambda: rung(service) == "mip", 30, "the predictor is asked again")


def test_a_killed_solver_costs_a_rung_and_no_answer(service: Service) -> None:
    before = lower_rungs(service)
    kill(replicas("Solver")[0])
    with steady_load(service.url, clients=4, max_tokens=TOKENS) as load:
        wait_for(lambda: lower_rungs(service) > before, 20, "a lower rung answers")
        wait_for(lambda: len(replicas("Solver")) == 1 and rung(service) == "mip", 60, "the solver is back")
    assert set(load.ends) == {"whole"}, load.ends


def test_a_replica_that_answers_500_is_left_alone_until_it_works(service: Service) -> None:
    with failing_replica("wren", service.document["applications"][0]["name"]) as replica:
        name = replica.replica.id
        wait_for(lambda: name in service.replicas(), 10, "the failing replica has joined")
        for _ in range(5):
            assert service.chat(model="wren", max_tokens=1).status_code == 200
        # An ingress that nobody has asked lately may tell what was so two seconds ago.
        wait_for(lambda: service.replicas().get(name, {}).get("breaker", "closed") != "closed", 5, "it is left alone")
        asked = replica.asked
        assert 3 <= asked < 5, "three failures in a row open the breaker"
        replica.fails = False
        wait_for(
            lambda: service.chat(model="wren", max_tokens=1).json()["id"] == "fake", 20, "a trial shows that it works"
        )
        wait_for(lambda: service.replicas().get(name, {}).get("breaker") == "closed", 5, "the router hears of it")
    wait_for(lambda: (known := service.replicas()) and name not in known, 10, "it has left")


def test_a_stream_whose_engine_dies_ends_with_an_error_event(service: Service) -> None:
    body = {"model": "heron", "messages": [{"role": "user", "content": "What is 2 plus 3?"}], "stream": True}
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        for process in replicas("Engine-heron"):
            kill(process)
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "unavailable"
    assert service.chat(max_tokens=1).status_code == 200, "the others answer meanwhile"
    named = service.chat(model="heron", max_tokens=1)
    assert named.status_code in {200, 503}, "broken is not 'overloaded'"


def test_a_killed_router_loses_nothing(service: Service) -> None:
    with steady_load(service.url, clients=24, max_tokens=TOKENS) as load:
        wait_for(lambda: load.sent > 40, 30, "the load runs")
        kill(replicas("Router")[0])
        died_at = load.sent
        wait_for(lambda: load.sent > died_at + 60, 60, "a new router plans")
        wait_for(lambda: service.health().get("in_flight", 0) > 0, 30, "it knows what is in flight")
    assert set(load.ends) == {"whole"}, load.ends
    wait_for(lambda: service.health().get("in_flight") == 0, 10, "nothing was adopted that had ended already")


def test_a_killed_ingress_takes_only_its_own_connections_along(service: Service) -> None:
    with steady_load(service.url, clients=12, max_tokens=TOKENS) as load:
        wait_for(lambda: load.sent > 20, 30, "the load runs")
        victim = replicas("Ingress")[0].pid
        kill(replicas("Ingress")[0])
        died_at = load.sent
        wait_for(lambda: load.sent > died_at + 40, 60, "the other ingress serves")
        wait_for(lambda: len({p.pid for p in replicas("Ingress")} - {victim}) == 2, 60, "there are two again")
    lost = {end for end in load.ends if end != "whole"}
    assert load.ends.total() - load.ends["whole"] <= 12, load.ends
    assert all(end.startswith(("lost", "broken stream", "500", "502", "503")) for end in lost), load.ends


def test_a_hung_router_is_replaced_and_loses_nothing(service: Service) -> None:
    with steady_load(service.url, clients=12, max_tokens=TOKENS) as load:
        wait_for(lambda: load.sent > 20, 30, "the load runs")
        victim = replicas("Router")[0]
        with hung(victim):
            wait_for(lambda: {p.pid for p in replicas("Router")} - {victim.pid}, FOUND_S, "there is another")
            wait_for(lambda: not victim.is_running(), ENDED_S, "the hung one is ended")
            hung_at = load.sent
            wait_for(lambda: load.sent > hung_at + 40, 60, "the new router plans")
    assert set(load.ends) == {"whole"}, load.ends


def test_a_hung_ingress_is_replaced_and_takes_only_its_own_connections_along(service: Service) -> None:
    with steady_load(service.url, clients=12, max_tokens=TOKENS) as load:
        wait_for(lambda: load.sent > 20, 30, "the load runs")
        victim = replicas("Ingress")[0]
        with hung(victim):
            wait_for(lambda: not victim.is_running(), FOUND_S + ENDED_S, "the hung one is ended")
            wait_for(lambda: len(replicas("Ingress")) == 2, 60, "there are two again")
        hung_at = load.sent
        wait_for(lambda: load.sent > hung_at + 40, 60, "all are served")
    lost = {end for end in load.ends if end != "whole"}
    assert load.ends.total() - load.ends["whole"] <= 24, load.ends
    assert all(end.startswith(("lost", "broken stream", "500", "502", "503", "504")) for end in lost), load.ends


@pytest.mark.timeout(420)
def test_a_rolling_deploy_of_prices_budget_and_a_new_model_loses_nothing(
    service: Service, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rolling")
    port = service.document["http_options"]["port"]
    changed = make_document(folder, (*FIRST_MODELS, LATER_MODEL), port)
    args = changed["applications"][0]["args"]
    args["predictor"]["artefact"] = str(make_artefact(folder, FIRST_MODELS))  # which does not know the new model
    args["routing"]["budget_usd_per_request"] = 2 * BUDGET_USD
    args["models"][0]["output_usd_per_million"] *= 2
    before = {p.pid for name in ("Ingress", "Engine-wren", "Router") for p in replicas(name)}

    def rolled_out() -> bool:
        state = service.health()
        old = {p.pid for name in ("Ingress", "Engine-wren", "Router") for p in replicas(name)} & before
        return bool(not old and state.get("budget_usd_per_request") == 2 * BUDGET_USD and state["healthy"])

    with steady_load(service.url, clients=8, max_tokens=TOKENS) as load:
        wait_for(lambda: load.sent > 16, 30, "the load runs")
        deploy(copy.deepcopy(changed))
        wait_for(rolled_out, 230, "the new configuration is everywhere")
        rolled_at = load.sent
        wait_for(lambda: load.sent > rolled_at + 16, 30, "and is used")
    assert set(load.ends) == {"whole"}, load.ends
    answer = service.chat(model=LATER_MODEL)
    assert (answer.status_code, answer.headers.get("x-router-success")) == (200, None)
    in_auto = {one["id"]: one.get("in_auto") for one in httpx.get(f"{service.url}/v1/models").json()["data"]}
    assert in_auto == {"auto": None, **dict.fromkeys(FIRST_MODELS, True), LATER_MODEL: False}
    listed = httpx.get(f"{service.url}/v1/models/wren").json()
    assert listed["output_usd_per_million"] == args["models"][0]["output_usd_per_million"]


def test_a_graceful_stop_lets_streams_end(service: Service, stop: contextlib.ExitStack) -> None:
    texts: list[str] = []

    def stream() -> None:
        texts.append(service.chat(stream=True).text)

    threads = [threading.Thread(target=stream) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: service.health().get("in_flight") == 8, 10, "all streams run")
    stop.close()
    for thread in threads:
        thread.join()
    assert [text.endswith("data: [DONE]\n\n") and '"error"' not in text for text in texts] == [True] * 8
