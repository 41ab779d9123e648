"""Threads that share a core with other work must not wait for each other by spinning."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WORK = """
import os, time
from apportion.router.threads import share_cores
share_cores()
import torch
# Two threads on one core, as where a neighbour keeps the other one busy.
torch.set_num_threads(2)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
square = torch.ones(400, 400)
square.sin()
started_s = time.process_time()
for _ in range(100):
    square.sin()
print(time.process_time() - started_s)
"""


def seconds_of_cpu(policy: str | None) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = kept if policy is None else kept | {"OMP_WAIT_POLICY": policy}
    return float(subprocess.run([sys.executable, "-c", WORK], env=environment, check=True, capture_output=True).stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins a process to one core")
def test_two_threads_on_one_core_do_not_spin_for_each_other() -> None:
    assert 5 * seconds_of_cpu(None) < seconds_of_cpu("ACTIVE")
