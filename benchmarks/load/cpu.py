"""CPU seconds of the processes on this machine that serve, by what they are."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping

import psutil

CLIENT = "client"
HAPROXY = "haproxy"
ENGINE_CORE = "engine core"


def cpu_seconds(others: Mapping[str, int] | None = None) -> dict[str, float]:
    """CPU so far of Serve's replicas (APPLICATION/DEPLOYMENT), HAProxy, vLLM's cores, and this process (`client`).

    Args:
        others: further processes by name, each counted with its children.
    """
    total: dict[str, float] = defaultdict(float)
    for kind, process in [*_known(), *_named(others or {})]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total[kind] += times.user + times.system
    return dict(total)


def spent_ms(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds between two readings."""
    return {kind: 1e3 * (after[kind] - before.get(kind, 0.0)) for kind in after}


def _known() -> Iterator[tuple[str, psutil.Process]]:
    yield CLIENT, psutil.Process()
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or []) or process.info["name"] or ""
        if kind := kind_of(title, process.info["name"] or ""):
            yield kind, process


def kind_of(title: str, name: str) -> str | None:
    """What a process is by its command line, or None for one that does not serve."""
    if "ServeReplica:" in title:
        # ray::ServeReplica:APPLICATION:DEPLOYMENT...
        return title.split("ServeReplica:", 1)[1].split(".")[0].split()[0].replace(":", "/")
    if name == "haproxy":
        return HAPROXY
    return ENGINE_CORE if "EngineCore" in title else None


def _named(others: Mapping[str, int]) -> Iterator[tuple[str, psutil.Process]]:
    for kind, pid in others.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            yield kind, process
            for child in process.children(recursive=True):
                yield kind, child


def load_average() -> float:
    """Runnable processes over the last minute: how busy the machine was with all its work."""
    return os.getloadavg()[0]
