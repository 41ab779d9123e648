"""The thread in which the router itself searches for assignments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# One for all searches: each keeps a core busy until its time is up, and Pyomo is not made for several threads at once.
_SEARCH = ThreadPoolExecutor(1, thread_name_prefix="search")


async def searching(search: Callable[[], T]) -> T:
    """The result of a search that may take long, which the event loop does not wait for."""
    return await asyncio.get_running_loop().run_in_executor(_SEARCH, search)
