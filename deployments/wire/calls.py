"""One call of the router's over its handle, with an end: in time, or with an error that says what was the matter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from apportion.router.batch.guards.cancellation import is_cancelled
from apportion.router.errors import DeadlineError, UnavailableError

T = TypeVar("T")


async def answer_of(call: Awaitable[T], timeout_s: float) -> T:
    """The router's answer.

    Raises:
        DeadlineError: it did not come within `timeout_s`.
        UnavailableError: there is no router at the moment.
        Exception: what the router itself has raised.
    """
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            try:
                return await call
            except RayTaskError:
                raise
            except (RayError, RayServeException, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                raise UnavailableError(
                    "the router does not answer; try again in some seconds", retry_after_s=5.0
                ) from error
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineError(
            f"the router did not answer within {timeout_s:g} s; allow more, or send fewer requests"
        ) from None
