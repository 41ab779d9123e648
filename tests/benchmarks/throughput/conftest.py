import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture(scope="package")
def engine() -> Iterator[str]:
    """A simulated engine in a process of its own; it answers to any model's name, as itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.overhead.engine", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/health")
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()
