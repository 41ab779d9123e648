"""A provider's limits as slots: how many requests at once, and when the next may be sent.

By Little's law a rate is as many slots as requests last seconds at it. What no limit says is found as TCP finds it: one
more slot a round of answers, half of them after a refusal (Chiu and Jain, 1989), and up to half of what was too much a
doubling each round. Where limits are known, what was too much is no news of the number at once, and is soon had again.
Reads no clock: the time is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from apportion.router.quota.pace import KEPT, Pace

GATE_S = 0.2  # a request is held so long, beside the time between two, before it had better go elsewhere
LONGEST_GATE_S = 2.0
_WIDER, _NARROWER = 1.2, 0.9  # what a turn that nobody took changes of the time between two, and one that was far
BEGINNING = 16  # slots, where no limit is known
LONGEST_BLOCK_S = 60.0
BURST_S = 5.0  # of tokens, which are booked for the longest answer, that may come at once, until a refusal
REGROWTH_S = 300.0  # after a refusal that is back by then
_MEMORY = 0.1  # what one answer changes of a mean


@dataclass(slots=True)
class Mean:
    """Of the last values, more or less; `value` is what is thought before the first."""

    value: float
    known: bool = False

    def add(self, value: float) -> None:
        """One more."""
        self.value = self.value + _MEMORY * (value - self.value) if self.known else value
        self.known = True


@dataclass(slots=True)
class Quota:
    """What one account of a provider allows.

    Args:
        most: requests at once, whatever happens.
        requests_per_minute: None: nobody says.
        tokens_per_minute: of prompts and answers; None: nobody says.
    """

    most: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    running: int = 0
    _concurrency: float = field(init=False)
    _threshold: float = math.inf  # up to which it doubles each round
    _requests: Pace = field(init=False)
    _tokens: Pace = field(init=False)
    _seconds: Mean = field(default_factory=lambda: Mean(1.0))
    _counted: Mean = field(default_factory=lambda: Mean(500.0))
    _turnaround_s: float = GATE_S  # from an answer's end to the next request in its place
    _blocked_until_s: float = -math.inf
    _cut_s: float = -math.inf
    _in_a_row: int = 0

    def __post_init__(self) -> None:
        known = self.requests_per_minute is not None or self.tokens_per_minute is not None
        self._concurrency = float(self.most if known else min(self.most, BEGINNING))
        self._requests, self._tokens = Pace(self.requests_per_minute), Pace(self.tokens_per_minute)

    def slots(self) -> int:
        """How many requests it can have at once now, at least one."""
        bounds = [float(self.most), math.floor(self._concurrency)]
        if (rate := self._rate()) is not None:
            bounds.append(math.ceil(rate * KEPT * (self._seconds.value + self._turnaround_s)))
        return max(1, int(min(bounds)))

    def book(self, now_s: float, tokens: float) -> tuple[float, bool]:
        """A request of so many tokens is to be sent.

        Returns:
            Seconds to wait, and whether it was booked for then; else that is too long to be held here.
        """
        burst = min((now_s - self._cut_s) / REGROWTH_S, 1.0)
        wait_s = max(
            self._blocked_until_s - now_s,
            self._requests.wait_s(now_s, 0.0),
            self._tokens.wait_s(now_s, BURST_S * burst),
            0.0,
        )
        rate = self._rate()
        patience_s = min(GATE_S + (0.0 if rate is None else 1.0 / (rate * KEPT)), LONGEST_GATE_S)
        if wait_s > patience_s:
            self._turnaround_s = max(self._turnaround_s * _NARROWER, GATE_S)
            return wait_s, False
        if wait_s == 0.0 and self.running + 1 >= self.slots():
            self._turnaround_s = min(self._turnaround_s * _WIDER, LONGEST_GATE_S)
        self._requests.book(now_s + wait_s, 1.0)
        self._tokens.book(now_s + wait_s, tokens)
        return wait_s, True

    def blocked_s(self, now_s: float) -> float:
        """For how long nothing may be sent, whatever was booked."""
        return max(self._blocked_until_s - now_s, 0.0)

    def withdraw(self, tokens: float) -> None:
        """What was booked is not sent after all."""
        self._requests.correct(-1.0)
        self._tokens.correct(-tokens)

    def answered(self, seconds: float, booked: float, counted: float) -> None:
        """An answer has ended.

        Args:
            seconds: since it was sent.
            booked: tokens that it was booked for.
            counted: tokens that it had.
        """
        self._tokens.correct(counted - booked)
        self._seconds.add(seconds)
        self._counted.add(counted)
        self._in_a_row = 0
        if self.running >= self._concurrency / 2:  # else nothing shows that more would be taken
            more = 1.0 if self._concurrency < self._threshold else 1.0 / self._concurrency
            self._concurrency = min(self._concurrency + more, float(self.most))

    def refused(self, now_s: float, retry_after_s: float | None) -> float:
        """It has taken no more.

        Args:
            retry_after_s: as it says; None: it does not.

        Returns:
            Seconds for which nothing is sent.
        """
        if now_s - self._cut_s > self._seconds.value:  # once a round: the others were sent before it was known
            self._concurrency = max(1.0, min(self._concurrency, float(max(self.running, 1))) / 2)
            self._threshold = self._concurrency if self._rate() is None else math.inf
            self._in_a_row += 1
        self._cut_s = now_s
        if retry_after_s is None:
            retry_after_s = 2.0 ** min(self._in_a_row - 1, 6)
        block_s = min(max(retry_after_s, 0.05), LONGEST_BLOCK_S)
        self._blocked_until_s = max(self._blocked_until_s, now_s + block_s)
        return self._blocked_until_s - now_s

    def left(self, now_s: float, reset_s: float) -> None:
        """It says that nothing is left until then."""
        self._blocked_until_s = max(self._blocked_until_s, now_s + min(reset_s, LONGEST_BLOCK_S))

    def _rate(self) -> float | None:
        """Requests a second that the limits allow."""
        rates = []
        if self.requests_per_minute is not None:
            rates.append(self.requests_per_minute / 60)
        if self.tokens_per_minute is not None:
            rates.append(self.tokens_per_minute / 60 / max(self._counted.value, 1.0))
        return min(rates, default=None)
