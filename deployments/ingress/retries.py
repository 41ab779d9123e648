"""What keeps one bad request, or one bad hour, from being tried on every engine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from apportion.router.batch.guards.breaker import Breaker
from apportion.router.errors import UnavailableError

RETRY_BURST = 100.0  # retries at once, as when an engine dies with all that it was answering
RETRIES_PER_S = 1.0  # for a service that is asked so little that its share is nothing
SUSPECTS = 1024
REFUSED_S = 60.0  # after the second engine; twice as long after each further one
LONGEST_REFUSED_S = 600.0


class RetryBudget:
    """Bounds the retries of work that an engine may have begun: a slow fleet is not asked for more than it can do.

    Args:
        share: retries for each request.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        self._share = share
        self._clock = clock
        self._left = RETRY_BURST
        self._at_s: float | None = None

    def request(self) -> None:
        """One more request came."""
        self._add(self._share)

    def take(self) -> bool:
        """Whether one may be tried again."""
        self._add(0.0)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def _add(self, retries: float) -> None:
        now_s = self._clock()
        passed_s = 0.0 if self._at_s is None else now_s - self._at_s
        self._at_s = now_s
        self._left = min(RETRY_BURST, self._left + retries + RETRIES_PER_S * passed_s)


@dataclass(slots=True)
class _Suspect:
    replicas: set[str] = field(default_factory=set)
    breaker: Breaker = field(
        default_factory=lambda: Breaker(failures=2, cool_down_s=REFUSED_S, longest_s=LONGEST_REFUSED_S)
    )


class Suspects:
    """Contents that engines were lost with, by their digests; two engines make one that is not sent for a while.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._suspects: OrderedDict[bytes, _Suspect] = OrderedDict()

    def check(self, digest: Callable[[], bytes]) -> None:
        """Asks for the digest only where there are suspects.

        Raises:
            UnavailableError: two engines or more failed while they worked on it.
        """
        suspect = self._suspects.get(digest()) if self._suspects else None
        if suspect is not None and not suspect.breaker.allows(self._clock()):
            raise UnavailableError(
                f"{len(suspect.replicas)} engines failed while they worked on this content, and no other gets it "
                "for now; change it, or send it again later",
                retry_after_s=REFUSED_S,
            )

    def lost(self, digest: bytes, replica: str) -> None:
        """An engine failed while it worked on this content; one that fails at everything counts once."""
        suspect = self._suspects.setdefault(digest, _Suspect())
        self._suspects.move_to_end(digest)
        if replica not in suspect.replicas:
            suspect.replicas.add(replica)
            suspect.breaker.failure(self._clock())
        if len(self._suspects) > SUSPECTS:
            self._suspects.popitem(last=False)

    def answered(self, digest: Callable[[], bytes]) -> None:
        """It was not the content."""
        if self._suspects:
            self._suspects.pop(digest(), None)
