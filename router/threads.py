"""Threads of numerical libraries beside other work."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let torch's threads sleep while they wait for each other; to be called before torch is imported.

    Else they spin at the end of every operation, and where other work has one of the cores, they wait in vain for the
    thread that has none: two threads on one core take a hundred times as long. What the environment says stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
