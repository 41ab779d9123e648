"""Names requests so that their callers, and nobody else, can say what they think of the answers."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import Context

from apportion.deployments.config.records import FeedbackConfig
from apportion.deployments.wire.calls import answer_of
from apportion.router.budget import Account
from apportion.router.errors import UnavailableError
from apportion.router.records.names import AnswerNames

logger = logging.getLogger(__name__)

ASK_S = 5.0  # for the router's answer
AGAIN_S = 1.0  # after one that has failed to come
PATIENCE_S = 5.0  # of a request with an ingress that has just started; later it gets a name that takes no feedback
DAY_S = 86_400.0

Ask = Callable[[], Awaitable[bytes]]
"""The secret of the store of records, as the Router knows it."""


def plain_name(_: Account) -> str:
    """A name that takes no feedback."""
    return uuid.uuid4().hex


class Naming:
    """Gets the secret once, and then makes and checks names with it.

    Args:
        config: None: no answer takes feedback, and nobody is asked.
        clock: seconds since 1970.
    """

    def __init__(self, config: FeedbackConfig | None, ask: Ask, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._days = 0.0 if config is None else config.days
        self._clock = clock
        self._names: AnswerNames | None = None
        self._known = asyncio.Event()
        # In a context of its own: it is no request's.
        self._asking = None if config is None else asyncio.create_task(self._learn(), context=Context())

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def ready(self) -> None:
        """Waits for the secret, for a while, where the ingress has just started."""
        if self._asking is not None and not self._known.is_set():
            try:
                async with asyncio.timeout(PATIENCE_S) as patience:
                    await self._known.wait()
            except TimeoutError:
                if not patience.expired():
                    raise

    def new(self, account: Account) -> str:
        """The name of a request of this account."""
        return plain_name(account) if self._names is None else self._names.new(account, self._clock())

    def own(self, told: str, account: Account) -> str | None:
        """The request's name in what its caller calls the answer; None: it is none of theirs, or too old.

        Raises:
            UnavailableError: nobody knows at the moment.
        """
        if self._names is None:
            raise UnavailableError("the router has not been heard of yet; try again in some seconds", retry_after_s=5.0)
        return self._names.own(told, account, self._clock() - self._days * DAY_S)

    async def _learn(self) -> None:
        while self._names is None:
            try:
                self._names = AnswerNames(await answer_of(self._ask(), ASK_S))
            except Exception as error:
                logger.warning("answers take no feedback until the router answers: %s", type(error).__name__)
                await asyncio.sleep(AGAIN_S)
        self._known.set()
