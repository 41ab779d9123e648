"""A client that collects its answer: rows have no socket, and are served like every other request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message

from apportion.deployments.ingress.attempt import Attempt
from apportion.deployments.ingress.client import Client
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.openai import ParsedRequest
from apportion.deployments.ingress.tracing.trace import Trace
from apportion.router.budget import to_nano
from apportion.router.errors import ApportionError
from apportion.router.jobs.segments import Tokens
from apportion.router.signals import Signals


@dataclass(slots=True)
class Attempts(Trace):
    """Takes note of the attempts at a row."""

    made: list[Attempt] = field(default_factory=list)

    def attempted(self, attempt: Attempt, *, stream: bool) -> AbstractContextManager[None]:
        self.made.append(attempt)
        return Trace.attempted(self, attempt, stream=stream)

    @property
    def cost_nano(self) -> int:
        """What engines have told, in nano-USD; for the rest the ledger knows."""
        return sum(to_nano(attempt.cost_usd) for attempt in self.made if attempt.cost_usd is not None)


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a row that was sent.

    Args:
        status: of the answer.
        body: of the answer, as JSON is read; None: it is none.
        model: that answered.
        cost_nano: nano-USD that engines have told, of all attempts.
        error: why there is no answer; `status` and `body` are its own then.
        attempted: whether an engine was asked.
        signals: how sure the model was; None: nobody asked, or the engine does not tell.
    """

    status: int
    body: Any
    model: str | None
    cost_nano: int
    error: ApportionError | None
    attempted: bool
    signals: Signals | None = None

    @property
    def tokens(self) -> Tokens:
        """As the answer counts them."""
        usage = self.body.get("usage") if isinstance(self.body, dict) else None
        return _tokens(usage) if isinstance(usage, dict) else Tokens()


async def answered(dispatcher: Dispatcher, parsed: ParsedRequest, path: str) -> Answered:
    """Serves a row, whatever comes of it."""
    status, body = 0, bytearray()

    async def collect(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body.extend(message["body"])

    attempts = Attempts()
    try:
        await dispatcher.serve(parsed, path, Client(collect, path=path), trace=attempts)
    except ApportionError as error:
        return Answered(error.status, error.envelope(), None, attempts.cost_nano, error, bool(attempts.made))
    last = attempts.made[-1] if attempts.made else None
    model = None if last is None else last.decision.model
    signals = None if last is None or last.settled is None else last.settled.signals
    return Answered(status, _json(bytes(body)), model, attempts.cost_nano, None, True, signals)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    def count(*names: str) -> int:
        found: Any = next((usage[name] for name in names if name in usage), 0)
        return found if isinstance(found, int) else 0

    def detail(name: str, *groups: str) -> int:
        found: Any = next((usage[group] for group in groups if isinstance(usage.get(group), dict)), {})
        return found.get(name) or 0

    return Tokens(
        count("prompt_tokens", "input_tokens"),
        detail("cached_tokens", "prompt_tokens_details", "input_tokens_details"),
        count("completion_tokens", "output_tokens"),
        detail("reasoning_tokens", "completion_tokens_details", "output_tokens_details"),
    )
