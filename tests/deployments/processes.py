"""The processes of a service that this test run has started: found by title among its own descendants."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator

import psutil


def descendants() -> list[psutil.Process]:
    """Everything that runs below this process: Ray, the replicas, HAProxy, vLLM's cores."""
    return psutil.Process().children(recursive=True)


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas, the oldest first."""
    found = []
    for process in descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            if role(process) == deployment:
                found.append(process)
    return sorted(found, key=psutil.Process.create_time)


def role(process: psutil.Process) -> str:
    """What a process is: a deployment's name, or what its command says."""
    words = " ".join(process.cmdline()) or process.name()
    if "ServeReplica:" in words:
        # ray::ServeReplica:APPLICATION:DEPLOYMENT...
        return words.split("ServeReplica:", 1)[1].split(":", 1)[1].split(".")[0].split()[0].strip(":")
    if words.startswith("ray::"):
        return words.split(".")[0].split()[0].removeprefix("ray::")
    return process.name()


def kill(process: psutil.Process) -> int:
    """SIGKILL; returns the process id."""
    os.kill(process.pid, signal.SIGKILL)
    return process.pid


@contextlib.contextmanager
def hung(process: psutil.Process) -> Iterator[None]:
    """The process does nothing while the context lasts, and does not know; it may be ended meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def memory_mb() -> Counter[str]:
    """Memory of the descendants in MB by role; what several share is counted in proportion."""
    total: Counter[str] = Counter()
    for process in descendants():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            total[role(process)] += round(process.memory_full_info().pss / 2**20)
    return total
