"""Parts that hang, die or starve, files that are broken, and deployments of what is wrong or right."""

from __future__ import annotations

import contextlib
import copy
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil

from apportion.deployments.cluster.launch import deploy
from tests.deployments.processes import kill, replicas
from tests.deployments.service import wait_for
from tests.hostile.attack import Attack, Excuse, Field
from tests.hostile.stage import FAST_MODELS, SLOW_MODEL, Stage, key, write_keys

BACK_S = 90.0


def core_of(model: str) -> psutil.Process:
    """vLLM's core of a model's engine."""
    return next(
        child
        for child in replicas(f"Engine-{model}")[0].children(recursive=True)
        if "EngineCore" in " ".join(child.cmdline()) + child.name()
    )


def part(name: str) -> psutil.Process:
    return replicas(name)[0]


def killed(find: Callable[[], psutil.Process], name: str) -> Callable[[Field], None]:
    """SIGKILL; returns when another process has taken the place."""

    def run(field: Field) -> None:
        living = len(replicas(name))
        victim = find()
        field.damaged()
        kill(victim)
        wait_for(
            lambda: (
                not victim.is_running() and len(replicas(name)) >= living and bool(field.stage.health().get("healthy"))
            ),
            BACK_S,
            f"{name} is back",
        )

    return run


def stopped(find: Callable[[], psutil.Process], name: str, seconds: float) -> Callable[[Field], None]:
    """SIGSTOP for so long or until the part has been given up; then it goes on, if it is still there."""

    def run(field: Field) -> None:
        victim = find()
        field.damaged()
        victim.suspend()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.2)
        gone = not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE
        field.seen["given up" if gone else "waited for"] += 1
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.resume()
        wait_for(lambda: bool(field.stage.health().get("healthy")), BACK_S, f"{name} works again")

    return run


def starve_an_ingress(field: Field) -> None:
    """No further descriptor for one of the two ingresses."""
    victim = part("Ingress")
    soft, hard = victim.rlimit(psutil.RLIMIT_NOFILE)
    field.damaged()
    victim.rlimit(psutil.RLIMIT_NOFILE, (victim.num_fds() + 1, hard))
    time.sleep(10)
    if victim.is_running():
        victim.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
    state = field.stage.health()
    field.seen["engines that are still offered"] += len(state.get("replicas", {}))


def stall_the_database(field: Field) -> None:
    """Somebody holds the ledger's write lock."""
    with contextlib.closing(sqlite3.connect(field.stage.ledger, isolation_level=None)) as database:
        field.damaged()
        database.execute("BEGIN IMMEDIATE")
        time.sleep(4)
        database.execute("ROLLBACK")


@contextlib.contextmanager
def spoilt(stage: Stage, raw: bytes) -> Iterator[None]:
    good = stage.keys_file.read_bytes()
    stage.keys_file.write_bytes(raw)
    try:
        yield
    finally:
        stage.keys_file.write_bytes(good)


def spoil_the_keys(field: Field) -> None:
    """Not UTF-8, empty, half-written, a misspelt field, a model that is not served."""
    good = field.stage.keys_file.read_bytes()
    wrong = (
        b"\xff\xfe" + good,
        b"",
        good[: len(good) // 2 - 7],
        good.replace(b"models", b"modles", 1),
        good.replace(b"wren", b"wern", 1),
    )
    for raw in wrong:
        with spoilt(field.stage, raw):
            time.sleep(2.5)
        field.seen["file"] += 1
    time.sleep(2.5)
    write_keys(field.stage.keys_file)


def with_user_config(document: dict[str, Any], user_config: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    changed["applications"][0]["deployments"] = [{"name": "Router", "user_config": user_config}]
    return changed


def misspell_the_policy(field: Field) -> None:
    """A `user_config` of the Router with a wrong field, then the old file again."""
    deploy(with_user_config(field.stage.document, {"budget_usd_per_reqest": 1e-5}))
    wait_for(lambda: bool(field.stage.health().get("policy_error")), 30, "the mistake is told")
    field.seen["told"] += 1
    time.sleep(2)
    deploy(with_user_config(field.stage.document, {}))
    wait_for(lambda: field.stage.health().get("policy_error") is None, 60, "it is mended")


def misspell_every_section(field: Field) -> None:
    """A field that does not exist in each section of the arguments, deployed one after another."""
    sections = [name for name, value in field.stage.args.items() if isinstance(value, dict)]
    for name in (*sections, "models"):
        changed = copy.deepcopy(field.stage.document)
        args = changed["applications"][0]["args"]
        (args["models"][0] if name == "models" else args[name])["colour"] = "red"
        deploy(changed)
        time.sleep(3)
        field.seen["refused"] += field.stage.health() != {}
    deploy(field.stage.document)
    time.sleep(3)


def deploy_under_long_answers(field: Field) -> None:
    """Prices change and every part is replaced while answers of a minute, streamed and whole, run to their end."""
    ends: list[str] = []

    def ask(stream: bool) -> None:
        body = {"model": SLOW_MODEL, "messages": [{"role": "user", "content": "tell"}], "max_tokens": 230}
        answer = httpx.post(
            f"{field.stage.url}/v1/chat/completions",
            json=body | {"stream": stream},
            headers=key("streamer"),
            timeout=120,
        )
        whole = answer.text.endswith("data: [DONE]\n\n") if stream else answer.status_code == 200
        good = whole and '"error"' not in answer.text
        ends.append("whole" if good else f"cut: {answer.status_code} {answer.text[-200:]}")

    threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    changed = copy.deepcopy(field.stage.document)
    args = changed["applications"][0]["args"]
    for model in args["models"]:
        model["output_usd_per_million"] *= 1.5
    args["batching"]["max_wait_ms"] = 40
    field.damaged()
    deploy(changed)
    for thread in threads:
        thread.join()
    field.seen.update(ends)
    field.stage.document.clear()
    field.stage.document.update(changed)


def raised_descriptors() -> None:
    """The harness itself needs many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


FIRST = FAST_MODELS[0]
FAULTS = (
    Attack(
        "SIGKILL for the predictor",
        killed(lambda: part("Predictor"), "Predictor"),
        excuse=Excuse(30, lower_rung=True),
        always=True,
    ),
    Attack("SIGKILL for the solver", killed(lambda: part("Solver"), "Solver"), excuse=Excuse(30, lower_rung=True)),
    Attack("SIGKILL for the router", killed(lambda: part("Router"), "Router"), excuse=Excuse(30), always=True),
    Attack("SIGKILL for an ingress", killed(lambda: part("Ingress"), "Ingress"), excuse=Excuse(15, lost=True)),
    Attack(
        "SIGKILL for an engine's replica", killed(lambda: part(f"Engine-{FIRST}"), f"Engine-{FIRST}"), excuse=Excuse(5)
    ),
    Attack("SIGKILL for an engine's core", killed(lambda: core_of(FIRST), f"Engine-{FIRST}"), excuse=Excuse(5)),
    Attack(
        "SIGSTOP for the predictor",
        stopped(lambda: part("Predictor"), "Predictor", 40),
        excuse=Excuse(60, lower_rung=True),
    ),
    Attack("SIGSTOP for the solver", stopped(lambda: part("Solver"), "Solver", 40), excuse=Excuse(60, lower_rung=True)),
    Attack("SIGSTOP for the router", stopped(lambda: part("Router"), "Router", 60), excuse=Excuse(60)),
    Attack("SIGSTOP for an ingress", stopped(lambda: part("Ingress"), "Ingress", 40), excuse=Excuse(60, lost=True)),
    Attack(
        "SIGSTOP for an engine's replica",
        stopped(lambda: part(f"Engine-{FIRST}"), f"Engine-{FIRST}", 40),
        excuse=Excuse(20),
    ),
    Attack("SIGSTOP for an engine's core", stopped(lambda: core_of(FIRST), f"Engine-{FIRST}", 90), excuse=Excuse(90)),
    Attack("an ingress without descriptors", starve_an_ingress, excuse=Excuse(20, lost=True)),
    Attack("a database that stands still for 4 s", stall_the_database, excuse=Excuse(8), always=True),
    Attack("a file of keys that is broken in five ways", spoil_the_keys, always=True),
    Attack("a misspelt policy is deployed", misspell_the_policy, frozenset({"told"}), always=True),
    Attack("a typing error in every section is deployed", misspell_every_section),
    Attack(
        "a deploy that replaces everything under answers of a minute",
        deploy_under_long_answers,
        frozenset({"whole"}),
        excuse=Excuse(100, lower_rung=True),  # the predictor is one of the parts that start on the same two cores
    ),
)
