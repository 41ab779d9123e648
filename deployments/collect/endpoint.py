"""Asking an OpenAI-compatible endpoint, with patience: what is temporary is tried again, as the endpoint says when."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from apportion.deployments.wire.logprobs import signals_of_choice
from apportion.router.chat import message_text
from apportion.router.errors import ConfigurationError, InvalidRequestError, UnavailableError
from apportion.router.signals import Signals

_TEMPORARY = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_NOBODYS_ANSWER = {401, 402, 403, 404, 405}
_REFUSED = 403  # also what some endpoints say of one prompt that they will not pass on
_LONGEST_WAIT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """What a model made of a prompt. error: why it failed; None: `text` is its answer.

    Tokens and signals are None where the endpoint did not tell. lost: it failed under way, and may have been charged.
    temporary: it failed with what is gone later, as far as anybody can tell.
    """

    text: str = ""
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    lost: bool = False
    temporary: bool = False
    signals: Signals | None = None


@dataclass(frozen=True)
class Endpoint:
    """A base URL that ends in /v1; `retries` further attempts for what is temporary."""

    client: httpx.AsyncClient
    retries: int
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def ask(
        self, path: str, body: dict[str, Any], again: Callable[[], Awaitable[bool]], *, known: bool = False
    ) -> Answer | None:
        """The model's answer, or its failure; None where `again` said no.

        Args:
            again: asked before a further attempt when one was lost, which may have been charged.
            known: the model has answered before, so that key, model and path are right.

        Raises:
            UnavailableError: the endpoint cannot be reached or allows no more requests: nobody's failure.
            ConfigurationError: key, model or path are wrong.
        """
        for attempt in range(self.retries + 1):
            last, reply = attempt == self.retries, None
            try:
                reply = _Reply(await self.client.post(path, json=body))
                if last or reply.status not in _TEMPORARY or reply.has_no_quota:
                    return reply.read(body["model"], known)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if last:
                    raise UnavailableError(
                        f"{self.client.base_url}: cannot be reached; start it or correct --url, then run this again"
                    ) from error
            except httpx.TransportError as error:
                if last:
                    return Answer(error=type(error).__name__, lost=True, temporary=True)
                if not await again():
                    return None
            await self.sleep(wait_before(None if reply is None else reply.response, attempt))
        raise AssertionError("the last attempt returns or raises")


def wait_before(response: httpx.Response | None, attempt: int) -> float:
    """Seconds to the next attempt: what the endpoint says, as a number or a date; else twice as long each time."""
    told = "" if response is None else response.headers.get("retry-after", "")
    try:
        wait_s = float(told)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            wait_s = min(2.0**attempt, 60.0) * (0.5 + random.random() / 2)
    return min(max(0.0, wait_s), _LONGEST_WAIT_S)


class _Reply:
    """What an endpoint said. status: also where an error came with a 200, as gateways send it on."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        try:
            self._body: Any = response.json()
        except ValueError:
            self._body = None
        self._error = self._find_error()
        self.status = response.status_code
        if self.status == 200 and self._error:
            code = self._error.get("code")
            self.status = code if isinstance(code, int) and 400 <= code < 600 else 500

    def _find_error(self) -> dict[str, Any]:
        body = self._body if isinstance(self._body, dict) else {}
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        error = body.get("error") or choice.get("error") or {}
        return error if isinstance(error, dict) else {"message": str(error)}

    @property
    def has_no_quota(self) -> bool:
        return self.status == 429 and self._error.get("code") == "insufficient_quota"

    def read(self, model: str, known: bool) -> Answer:
        """The answer; see `Endpoint.ask`."""
        if self.status != 200:
            return self._failure(model, known)
        if not isinstance(self._body, dict):
            raise ConfigurationError(
                f"model {model!r}: {self.response.url} answers with what is no JSON object; give --url up to /v1"
            )
        try:
            choice, usage = self._body["choices"][0], self._body.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
            return Answer(
                text=_text(choice),
                input_tokens=_tokens(usage.get("prompt_tokens")),
                output_tokens=_tokens(usage.get("completion_tokens")),
                cached_tokens=_tokens(details.get("cached_tokens")),
                signals=signals_of_choice(choice),
            )
        except (KeyError, TypeError, IndexError, AttributeError, InvalidRequestError):
            return Answer(error="the answer is none of OpenAI's form")

    def _failure(self, model: str, known: bool) -> Answer:
        said = f"HTTP {self.status}: {self._error.get('message') or self.response.reason_phrase}"[:500]
        nobodys = self.status in _NOBODYS_ANSWER and not (known and self.status == _REFUSED)
        if self.status < 400 or nobodys:
            raise ConfigurationError(f"model {model!r}: {said}; correct key, URL or model, then run this again")
        if self.status == 429:
            raise UnavailableError(f"model {model!r}: {said}; run this again later")
        return Answer(error=said, temporary=self.status in _TEMPORARY)


def _text(choice: dict[str, Any]) -> str:
    """What was answered: a text, a refusal, or calls of tools as JSON where there is nothing else."""
    if "message" not in choice:
        return str(choice["text"] or "")
    message = choice["message"]
    text = message_text(message, 0) or message.get("refusal")
    if not text and message.get("tool_calls"):
        return json.dumps(message["tool_calls"])
    return str(text or "")


def _tokens(given: Any) -> int | None:
    return given if isinstance(given, int) and given >= 0 else None
