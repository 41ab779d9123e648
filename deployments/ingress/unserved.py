"""Requests that end without the end of an attempt: refused, given up, or late before an engine had them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from starlette.requests import ClientDisconnect

from apportion.router.errors import ApportionError, DeadlineError

CLIENT_GONE = "client_gone"


class Unserved:
    """Counts them by the code of the error.

    Args:
        on_change: called with each that is counted.

    Attributes:
        totals: since the beginning.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.totals: Counter[str] = Counter()
        self._on_change = on_change

    @contextlib.contextmanager
    def counted(
        self, told: Callable[[], bool] = lambda: False, deadline: asyncio.Timeout | None = None
    ) -> Iterator[None]:
        """Counts the request if it ends within the context with an error.

        Args:
            told: whether its end is told otherwise.
            deadline: of the request, which cancels it as a client that leaves does.
        """
        try:
            yield
        except BaseException as error:
            if not told():
                self.totals[_code(error, deadline)] += 1
                self._on_change()
            raise


def _code(error: BaseException, deadline: asyncio.Timeout | None) -> str:
    if isinstance(error, ApportionError):
        return error.code
    if isinstance(error, (asyncio.CancelledError, ClientDisconnect)):
        return DeadlineError.code if deadline is not None and deadline.expired() else CLIENT_GONE
    return ApportionError.code
