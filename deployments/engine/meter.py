"""What runs on an engine, what it has cost so far, and when the engine last gave a sign of life.

An answer that arrives tells its cost itself. Of those that do not arrive, because the client left, the connection broke
or the engine failed, only the engine knows what was generated; it is asked for that by the request's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apportion.deployments.wire.engine_headers import (
    BUSY_HEADER,
    REQUEST_HEADER,
    SEQUENCES_HEADER,
    SIGNALS_ASKED_HEADER,
)
from apportion.deployments.wire.settlement import Settled, price_of
from apportion.router.prices import ModelPrice
from apportion.router.signals import Signals, signals_of

logger = logging.getLogger(__name__)

HAIR = 1e-3  # of a replica's slots: not nothing
MAX_ENDED = 20_000  # requests that have ended and can still be asked for


class Usage:
    """Tokens of one request so far, and their cost.

    Args:
        price: that the request was planned with.
        signals_asked: whether its ingress wants to know how sure the model was.

    Attributes:
        known: whether anybody here knows them.
    """

    def __init__(self, price: ModelPrice, *, signals_asked: bool = False) -> None:
        self.price = price
        self.signals_asked = signals_asked
        self._logprobs: list[float] = []
        self._margins: list[float] = []
        self._prompts: dict[str, int] = {}
        self._sequences: dict[str, str] = {}
        self._cached: dict[str, int] = {}
        self._completion_tokens = 0
        self._settled: Settled | None = None
        self.known = True

    def doubt(self) -> None:
        """From now on until it is settled, nobody here knows what the request costs."""
        self.known = False

    def read(self, sequence: str, prompt: str, tokens: int) -> None:
        """The engine has got one of the request's sequences; several may share a prompt."""
        self._sequences[sequence] = prompt
        self._prompts[prompt] = tokens

    def from_cache(self, sequence: str, tokens: int) -> None:
        """So many tokens of the sequence's prompt had been read before; what is not said was not.

        A prompt is charged once: as for the sequence of it that found least.
        """
        prompt = self._sequences[sequence]
        self._cached[prompt] = min(tokens, self._cached.get(prompt, tokens))

    def generated(self, tokens: int) -> None:
        """So many more output tokens, of whatever sequence."""
        self._completion_tokens += tokens

    def sure(self, logprobs: Iterable[float], margins: Iterable[float]) -> None:
        """How likely the model took so many more output tokens to be, and how far the likeliest ones were ahead."""
        self._logprobs += logprobs
        self._margins += margins

    @property
    def signals(self) -> Signals | None:
        """Of what was generated; None where nobody asked, and of several sequences, of which no one is the answer."""
        return signals_of(self._logprobs, self._margins) if len(self._sequences) == 1 else None

    def settle(self, prompt_tokens: int, completion_tokens: int) -> Settled:
        """Lengths and cost of the complete answer, which is what is told from now on."""
        cost_usd = self.price.cost_usd(prompt_tokens, completion_tokens, self._cached_tokens)
        self.known = True
        self._settled = Settled(cost_usd, prompt_tokens, completion_tokens, signals=self.signals)
        return self._settled

    @property
    def settled(self) -> Settled:
        """Of what was read and generated."""
        if self._settled is not None:
            return self._settled
        prompt_tokens, completion_tokens = sum(self._prompts.values()), self._completion_tokens
        cost_usd = self.price.cost_usd(prompt_tokens, completion_tokens, self._cached_tokens)
        return Settled(cost_usd, prompt_tokens, completion_tokens)

    @property
    def cost_usd(self) -> float:
        """Of what was read and generated."""
        return self.settled.cost_usd

    @property
    def _cached_tokens(self) -> int:
        return sum(self._cached.values())


_current: ContextVar[Usage] = ContextVar("usage")


def current_usage() -> Usage:
    """Of the request that the running task answers; outside of any, one that nobody asks for."""
    return _current.get(None) or Usage(ModelPrice(0.0, 0.0))


class Meter:
    """An engine's application, with its requests counted.

    Args:
        price: of requests that come without theirs.
        clock: seconds of a monotonic clock.

    Attributes:
        sequences: that run.
        peak: the most of them at once so far.
    """

    def __init__(self, app: ASGIApp, price: ModelPrice, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._price = price
        self._clock = clock
        self._running: dict[Usage, tuple[str | None, int, asyncio.Task[object] | None]] = {}
        self._ended: dict[str, float] = {}
        self._sign_s = clock()
        self.sequences = 0
        self.peak = 0
        self._busy_since = False  # the last time that anybody asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_HEADER)

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 500 and not _is_busy(message):
                logger.warning("request %s is answered with status %d", request_id, message["status"])
            await send(message)

        usage = Usage(price_of(headers, self._price), signals_asked=SIGNALS_ASKED_HEADER in headers)
        with self._counted(request_id, usage, _sequences(headers)):
            await self._app(scope, receive, watched_send)

    def sign(self) -> None:
        """The engine has done something."""
        self._sign_s = self._clock()

    def silent_s(self) -> float:
        """Seconds since the engine's last sign while it has had something to do; 0 if it has nothing to do."""
        return self._clock() - self._sign_s if self._running else 0.0

    def used(self, slots: int) -> float:
        """Share of the slots that is taken; a hair where nothing runs and something has since this was asked last.

        So a replica of short requests, that Serve looks at every few seconds, is not taken for one that nobody needs.
        """
        was_busy, self._busy_since = self._busy_since, bool(self._running)
        return max(self.sequences / max(1, slots), HAIR if was_busy else 0.0)

    def running(self) -> dict[str, int]:
        """The requests that run, with their sequences; of those that came with a name."""
        return {name: sequences for name, sequences, _ in self._running.values() if name is not None}

    def costs(self, request_ids: Iterable[str]) -> dict[str, float]:
        """What requests have cost in USD, of those among these that have ended here not long ago."""
        return {one: self._ended[one] for one in request_ids if one in self._ended}

    def abort(self) -> None:
        """Breaks off everything that runs, so that whoever waits for it learns that the engine is broken."""
        for _, _, task in self._running.values():
            if task is not None:
                task.cancel()

    @contextlib.contextmanager
    def _counted(self, request_id: str | None, usage: Usage, sequences: int) -> Iterator[None]:
        if not self._running:
            self.sign()
        self._running[usage] = request_id, sequences, asyncio.current_task()
        self._busy_since = True
        self.sequences += sequences
        self.peak = max(self.peak, self.sequences)
        reset = _current.set(usage)
        try:
            yield
        finally:
            _current.reset(reset)
            self.sequences -= sequences
            del self._running[usage]
            if request_id is not None and usage.known:
                self._end(request_id, usage.cost_usd)

    def _end(self, request_id: str, cost_usd: float) -> None:
        # Sent twice where a kept connection broke: both have cost.
        self._ended[request_id] = self._ended.pop(request_id, 0.0) + cost_usd
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]


def _is_busy(start: Message) -> bool:
    """Whether an answer only says that nobody behind the engine has time for it."""
    return BUSY_HEADER in Headers(raw=start["headers"])


def _sequences(headers: Headers) -> int:
    value = headers.get(SEQUENCES_HEADER, "")
    return int(value) if value.isdecimal() else 1
