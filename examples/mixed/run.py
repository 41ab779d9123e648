"""Both services on one machine, until Ctrl-C: `python examples/mixed/run.py`.

What else connects them than HTTP and a key is nothing: each file serves alone, on a machine of its own.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from apportion.deployments.cluster.launch import deploy, example, local_ray, required_cpus, url_of
from apportion.deployments.config.reader import read_config
from apportion.deployments.keys.keyring import new_key

HERE = Path(__file__).parent
FILES = (HERE / "provider.yaml", HERE / "serve_config.yaml")
READY_S = 600.0
console = Console(highlight=False, soft_wrap=True)


def together() -> tuple[dict[str, Any], float]:
    """Both configurations as one that Serve takes, and the CPUs that they ask for."""
    found = [read_config(file) for file in FILES]
    applications = [application for one in found for application in one.document["applications"]]
    return found[0].document | {"applications": applications}, sum(required_cpus(one.service) for one in found)


def make_key() -> None:
    """The provider's only customer: the key in this process's environment, its hash in the provider's list."""
    secret, digest = new_key()
    entry = {"name": "mixed", "sha256": digest, "requests_per_minute": 300}
    os.environ |= {"PROVIDER_KEY": secret, "PROVIDER_KEYS": json.dumps([entry])}


def wait_until_running() -> None:
    """Raises: TimeoutError: a service is not there in time."""
    from ray import serve

    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        states = {name: one.status for name, one in serve.status().applications.items()}
        console.print("  ".join(f"{name}: {state.lower()}" for name, state in states.items()))
        if states and set(states.values()) == {"RUNNING"}:
            return
        time.sleep(5.0)
    raise TimeoutError("the services were not ready in time; `serve status` says why")


def main() -> None:
    """Serves until Ctrl-C."""
    make_key()
    document, num_cpus = together()
    with local_ray(num_cpus):
        deploy(document)
        wait_until_running()
        console.print("\nReady. Try:\n")
        console.print(example(url_of(read_config(FILES[1]).document)), markup=False)
        console.print("\nCtrl-C stops it.")
        try:
            while True:
                time.sleep(3600.0)
        except KeyboardInterrupt:
            console.print("Stopping.")


if __name__ == "__main__":
    main()
