"""Other people's proxies, each in a virtual environment of its own, in front of one simulated engine.

One that cannot be installed or does not answer is left out, and the result says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import environment
from benchmarks.load.chat import PATH
from benchmarks.overhead.arm import Arm

FOLDER = Path("out/proxies")
START_TIMEOUT_S = 90
ENGINE = "engine alone"


@dataclass(frozen=True)
class Proxy:
    """A package from PyPI and how it is started.

    command: from its environment's bin/, the port to listen on, the engine's URL and a folder for its configuration.
    """

    name: str
    requirement: str
    model: str
    command: Callable[[Path, int, str, Path], list[str]]


def _litellm(bin_: Path, port: int, engine: str, folder: Path) -> list[str]:
    target = {"model": "openai/simulated", "api_base": f"{engine}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": "simulated", "litellm_params": target}]}
    (folder / "litellm.json").write_text(json.dumps(config))  # JSON is YAML
    return [str(bin_ / "litellm"), "--config", str(folder / "litellm.json"), "--host", "127.0.0.1", "--port", str(port)]


def _switchyard(bin_: Path, port: int, engine: str, folder: Path) -> list[str]:
    targets = ["one", "two"]
    lines = ["schema_version = 1", "[llm_clients.engine]", 'format = "openai_chat"', f'base_url = "{engine}/v1"']
    for target in targets:
        lines += [f"[targets.{target}]", f'id = "{target}"', 'llm_client = "engine"']
    lines += ["[routes.auto]", 'id = "simulated"', 'type = "random"', f"targets = {json.dumps(targets)}"]
    (folder / "switchyard.toml").write_text("\n".join(lines) + "\n")
    code = (
        "import signal, sys; from switchyard_rust.server import Server\n"
        "with Server(sys.argv[1], port=int(sys.argv[2])): signal.sigwait({signal.SIGTERM})"
    )
    return [str(bin_ / "python"), "-c", code, str(folder / "switchyard.toml"), str(port)]


def _vllm_router(bin_: Path, port: int, engine: str, folder: Path) -> list[str]:
    ports = ["--port", str(port), "--prometheus-port", str(free_port())]
    return [str(bin_ / "vllm-router"), "--worker-urls", engine, "--host", "127.0.0.1", *ports, "--policy", "random"]


PROXIES = (
    Proxy("litellm", "litellm[proxy]==1.106.0", "simulated", _litellm),
    Proxy("switchyard", "nemo-switchyard==0.3.0", "simulated", _switchyard),
    Proxy("vllm-router", "vllm-router==0.1.17", "simulated", _vllm_router),
)
# Nothing is fetched or reported, and nothing is logged per request.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, for minutes
    "RUST_LOG": "error",
    "NO_PROXY": "127.0.0.1,localhost",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running_proxies(proxies: tuple[Proxy, ...] = PROXIES) -> Iterator[tuple[list[Arm], dict[str, str]]]:
    """The proxies that answer, as arms, while the context lasts; and why the others do not, by name."""
    with contextlib.ExitStack() as stack:
        engine_port = free_port()
        command = [sys.executable, "-m", "benchmarks.overhead.engine", str(engine_port)]
        engine = stack.enter_context(_process(command, Path.cwd(), "engine"))
        engine_url = f"http://127.0.0.1:{engine_port}"
        _wait(engine, f"{engine_url}{PATH}", "simulated")
        arms, skipped = [], {}
        for proxy in proxies:
            try:
                folder = FOLDER / proxy.requirement.replace("[proxy]", "").replace("==", "-")
                bin_ = environment(folder, proxy.requirement)
                port = free_port()
                command = proxy.command(bin_, port, engine_url, bin_.parent)
                process = stack.enter_context(_process(command, bin_.parent, proxy.name))
                url = f"http://127.0.0.1:{port}{PATH}"
                _wait(process, url, proxy.model)
            except (OSError, subprocess.SubprocessError, RuntimeError) as error:
                skipped[proxy.name] = str(error)[:400]
                continue
            pids = {proxy.name: process.pid, ENGINE: engine.pid}
            arms.append(Arm(proxy.name, url, proxy.model, (proxy.name,), (ENGINE,), pids))
        yield arms, skipped


@contextlib.contextmanager
def _process(command: list[str], log_folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    log_folder = FOLDER if log_folder == Path.cwd() else log_folder
    log_folder.mkdir(parents=True, exist_ok=True)
    with open(log_folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | QUIET)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, model: str) -> None:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    deadline_s = time.monotonic() + START_TIMEOUT_S
    last = "nothing listens"
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode} before it answered; its log is in {FOLDER}")
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(url, json=body, timeout=10)
            if answer.status_code == 200:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(0.5)
    raise RuntimeError(f"no answer within {START_TIMEOUT_S} s: {last}")
