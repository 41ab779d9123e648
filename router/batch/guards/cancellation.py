"""Tells a cancelled task from a call that was cancelled at its other end."""

from __future__ import annotations

import asyncio


def is_cancelled() -> bool:
    """Whether the running task itself is being cancelled.

    A deployment handle raises CancelledError also where Serve has ended the call, which is a failure like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
