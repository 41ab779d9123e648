"""One account with a provider: what it may send when, and whether the provider takes its credentials."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from apportion.deployments.engine.external.counted import Counted
from apportion.router.quota.answers import exhausted_s
from apportion.router.quota.quota import Mean, Quota

logger = logging.getLogger(__name__)

TROUBLE_S = 60.0  # a provider that refuses the credentials is tried again so often, with a request
TOKENS_PER_BYTE = 0.3  # of texts, before anything was counted


class BusyError(Exception):
    """The provider takes no more for now.

    Args:
        busy_s: for so long.
    """

    def __init__(self, busy_s: float) -> None:
        super().__init__(busy_s)
        self.busy_s = busy_s


class Account:
    """The gate that every request to the provider goes through, and what its answers teach.

    Args:
        quota: of the account.
        clock: seconds of a monotonic clock.
        wall_clock: seconds since 1970.

    Attributes:
        trouble: why the provider takes nothing until somebody acts; None: it does.
    """

    def __init__(self, quota: Quota, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self.trouble: str | None = None
        self._quota = quota
        self._clock = clock
        self._wall_clock = wall_clock
        self._trial_at_s = 0.0
        self._input, self._output = Mean(TOKENS_PER_BYTE), Mean(TOKENS_PER_BYTE)  # tokens a byte
        self._longest = Mean(256.0)

    def slots(self) -> int:
        """Requests that it can have at once now."""
        if self.trouble is None:
            return self._quota.slots()
        return 0 if self._clock() < self._trial_at_s else 1

    def tokens(self, size: int, longest: int | None) -> float:
        """What a request counts for when the provider takes it.

        Args:
            size: bytes of its prompt.
            longest: tokens that its answer may have; None: any number.
        """
        return size * self._input.value + (self._longest.value if longest is None else longest)

    def guess(self, size: int, generated: int) -> Counted:
        """Tokens of a prompt and an answer of so many bytes, as those before let expect."""
        return Counted(round(size * self._input.value), 0, round(generated * self._output.value))

    @contextlib.asynccontextmanager
    async def sending(self, tokens: float) -> AsyncIterator[None]:
        """Waits for its turn, which cannot be far; the context is open while the provider has the request.

        Raises:
            BusyError: it is far.
        """
        if self.trouble is not None and (left_s := self._trial_at_s - self._clock()) > 0:
            raise BusyError(left_s)
        wait_s, booked = self._quota.book(self._clock(), tokens)
        if not booked:
            raise BusyError(wait_s)
        try:
            await asyncio.sleep(wait_s)
            if (blocked_s := self._quota.blocked_s(self._clock())) > 0:
                raise BusyError(blocked_s)
        except BaseException:
            self._quota.withdraw(tokens)
            raise
        self._quota.running += 1
        try:
            yield
        finally:
            self._quota.running -= 1

    def answered(self, seconds: float, booked: float, counted: float) -> None:
        """An answer has ended, which had so many tokens."""
        self.works()
        self._quota.answered(seconds, booked, counted)

    def learn(self, tokens: Counted, size: int, generated: int) -> None:
        """What the provider counts of a prompt and an answer of so many bytes."""
        if size > 0:
            self._input.add(tokens.input / size)
        if generated > 0:
            self._output.add(tokens.output / generated)
        self._longest.add(tokens.output)

    def told(self, headers: Mapping[str, str]) -> None:
        """What an answer's headers say is left."""
        if (wait_s := exhausted_s(headers, self._wall_clock())) is not None:
            self._quota.left(self._clock(), wait_s)

    def refused(self, retry_after_s: float | None) -> BusyError:
        """The provider has taken no more; says for how long."""
        self.works()
        return BusyError(self._quota.refused(self._clock(), retry_after_s))

    def fails(self, trouble: str) -> BusyError:
        """The provider takes nothing until somebody acts; it is tried again from time to time."""
        if self.trouble != trouble:
            logger.error("%s by the provider; it is tried again every %.0f s", trouble, TROUBLE_S)
        self.trouble, self._trial_at_s = trouble, self._clock() + TROUBLE_S
        return BusyError(TROUBLE_S)

    def works(self) -> None:
        """It takes the credentials."""
        if self.trouble is not None:
            logger.warning("the provider takes requests again")
        self.trouble = None
