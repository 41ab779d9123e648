"""What the running service says of its engines."""

from __future__ import annotations

import contextlib
import time

import httpx


def engine_urls(base: str, timeout_s: float) -> dict[str, str]:
    """The port of each model's first replica, by model; waits until every model has one.

    Raises:
        TimeoutError: some model has none yet.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError):  # the proxy may be starting
            state = httpx.get(f"{base}/health", timeout=30)
            if state.status_code == 200:
                urls: dict[str, str] = {}
                for replica in state.json()["replicas"].values():
                    urls.setdefault(replica["model"], replica["url"])
                return urls
        time.sleep(0.5)
    raise TimeoutError(f"not every model had an engine within {timeout_s:g} s; {base}/health says which")
