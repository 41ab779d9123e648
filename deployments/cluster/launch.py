"""`apportion serve`: starts Ray on this machine, deploys a configuration, waits, and stops all of it cleanly.

On a cluster that is running already, `serve deploy` does the same from the same file.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from apportion.deployments.cluster.fitting import check_fits
from apportion.deployments.cluster.nodes import live_nodes
from apportion.deployments.cluster.run_folder import own_folder, token_file, use_token
from apportion.deployments.config.reader import read_config
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.keys.check import check_keys
from apportion.router.errors import UnavailableError

DASHBOARD_PORT = 8265
# HAProxy instead of Serve's Python proxy and handles without a second event loop: a sixth of the CPU a request.
# Nothing is reported to anyone.
RAY_ENV = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Else a warning is on file after a thousand more lines, or never if the process is killed.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # What has failed three checks in a row finishes nothing; its clients would hang for as long as a request may last.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Serve's controller looks at every replica ten times a second otherwise, on the cores that the engines start on.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # A connection whose client neither sends nor takes what is there for it; not one that waits for its answer.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
}
MAX_CONNECTIONS = 32_768  # of HAProxy, a node; Ray's own 4,096 are soon held by idle clients
STATUS_PERIOD_S = 1.0
END_LIMIT_S = 20.0


def required_cpus(config: ServiceConfig) -> float:
    """CPUs that Ray will reserve for all replicas, and for those that a deploy starts beside them."""
    rollout = config.rollout
    engines = sum(
        group.num_cpus * _with_surge(group.num_replicas, rollout.engine_surge_percent)
        for model in config.models
        for group in model.groups
    )
    front = (
        (config.ingress.num_cpus, config.ingress.num_replicas),
        (config.predictor.num_cpus, config.predictor.num_replicas),
        (config.solver.num_cpus, 1),
        *([] if config.bulk is None else [(config.bulk.num_cpus, config.bulk.num_replicas)]),
    )
    surging = sum(num_cpus * _with_surge(replicas, rollout.front_surge_percent) for num_cpus, replicas in front)
    return engines + surging + config.router.num_cpus


def _with_surge(num_replicas: int, surge_percent: int) -> int:
    return num_replicas + math.ceil(num_replicas * surge_percent / 100)


def set_ray_environment() -> None:
    """To be called before Ray is imported, since it reads its environment then; what the user has set stays."""
    for name, value in (RAY_ENV | {"RAY_SERVE_HAPROXY_MAXCONN": str(_max_connections())}).items():
        os.environ.setdefault(name, value)


def _max_connections() -> int:
    """HAProxy's: it does not start where the descriptors that it may need are not to be had.

    Those are two a connection, as many again for pipes of a quarter of them, and some more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, int((hard - 512) / 2.5))


@contextlib.contextmanager
def local_ray(num_cpus: float) -> Iterator[None]:
    """A Ray of our own on this machine while the context lasts; nothing of it is left afterwards.

    Args:
        num_cpus: CPUs that Ray may give away; a machine with fewer shares them.
    """
    set_ray_environment()
    with own_folder(), _ray(num_cpus):
        yield


@contextlib.contextmanager
def _ray(num_cpus: float) -> Iterator[None]:
    import psutil
    import ray
    from ray import serve

    with _own_signal_handlers():
        ray.init(
            address="local",  # never join one that runs here already, or that a file left behind speaks of
            num_cpus=max(os.cpu_count() or 1, int(num_cpus + 1)),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=DASHBOARD_PORT,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="serve",
        )
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            # First the applications, which finish what they are answering; the shutdown takes their proxy away at once.
            for name in serve.status().applications:
                serve.delete(name)
        with contextlib.suppress(Exception):
            serve.shutdown()
        started = psutil.Process().children(recursive=True)
        ray.shutdown()
        # Helpers of Ray's dashboard end by themselves, seconds after it.
        psutil.wait_procs(started, END_LIMIT_S)


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Puts back what handles signals: Ray's handler of SIGTERM aborts the process three seconds later, and what it was
    stopping stays.
    """
    own = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in own.items():
        if callable(handler):
            signal.signal(number, handler)


@contextlib.contextmanager
def running_service(path: Path, *, console: Console, timeout_s: float = 600) -> Iterator[str]:
    """Serves the configuration while the context lasts; yields the URL.

    Raises:
        ConfigurationError: the file is wrong, or some replica finds no room on this machine's GPUs.
        UnavailableError: a deployment failed or was not ready in time; holds Serve's message.
    """
    found = read_config(path)
    check_keys(found)
    document, config = found.document, found.service
    with local_ray(required_cpus(config)):
        check_fits(config, live_nodes())
        deploy(document)
        _wait_until_running(document["applications"][0]["name"], console, timeout_s)
        yield url_of(document)


def deploy(document: dict[str, Any], dashboard: str = f"http://127.0.0.1:{DASHBOARD_PORT}") -> None:
    """What `serve deploy` does: hands the file to the cluster, with the token of the service that runs here."""
    set_ray_environment()
    use_token()
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    ServeSubmissionClient(dashboard).deploy_applications(document)


def url_of(document: dict[str, Any]) -> str:
    """Where the application answers on this machine, without a slash at the end."""
    options = document.get("http_options") or {}
    given = options.get("host", "0.0.0.0")  # Serve's own default: all interfaces
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(given, given)
    prefix = document["applications"][0].get("route_prefix", "/").rstrip("/")
    return f"http://{f'[{host}]' if ':' in host else host}:{options.get('port', 8000)}{prefix}"


def serve_forever(path: Path, console: Console) -> None:
    """Runs until Ctrl-C or SIGTERM; a second one while stopping changes nothing."""
    stop = threading.Event()
    started_s = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    try:
        with running_service(path, console=console) as url:
            console.print(f"\nReady in {time.monotonic() - started_s:.0f} s at [bold]{url}/v1[/bold]. Try:\n")
            console.print(example(url), soft_wrap=True, highlight=False, markup=False)
            console.print("\nTo change it while it runs, edit the file and say:\n")
            console.print(deploy_command(path), soft_wrap=True, highlight=False, markup=False)
            console.print("\nCtrl-C stops it.")
            stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    console.print("Stopped; no process is left.")


def _interrupt(stop: threading.Event) -> None:
    stop.set()
    raise KeyboardInterrupt


def example(url: str) -> str:
    return (
        f"curl -si {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        """  -d '{"model": "auto", "messages": [{"role": "user", "content": "What is 12 plus 30?"}]}'"""
    )


def deploy_command(path: Path) -> str:
    """What hands the changed file to the service that runs here: its Ray asks for a token."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH", token_file())
    return f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token} serve deploy {path}"


def _wait_until_running(name: str, console: Console, timeout_s: float) -> None:
    from ray import serve

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    deadline_s = time.monotonic() + timeout_s
    # Both periods are long: what this process spends, the engines' imports lack.
    with Progress(*columns, TimeElapsedColumn(), console=console, refresh_per_second=1 / STATUS_PERIOD_S) as progress:
        tasks: dict[str, Any] = {}
        while time.monotonic() < deadline_s:
            application = serve.status().applications.get(name)
            for deployment, status in (application.deployments if application else {}).items():
                if deployment not in tasks:
                    tasks[deployment] = progress.add_task(deployment, total=1, state="")
                healthy = status.status == "HEALTHY"
                progress.update(tasks[deployment], completed=int(healthy), state="ready" if healthy else "starting")
            if application and application.status == "RUNNING":
                return
            if application and application.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
                raise UnavailableError(f"the application did not start: {_reasons(application)}")
            time.sleep(STATUS_PERIOD_S)
    raise UnavailableError(f"the application was not ready within {timeout_s:g} s; `serve status` says why")


def _reasons(application: Any) -> str:
    messages = [application.message, *(d.message for d in application.deployments.values())]
    return "\n".join(message for message in messages if message)
