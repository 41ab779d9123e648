"""Asking an OpenAI-compatible endpoint, with patience: what is temporary is tried again, as the endpoint says when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from apportion.router.errors import ConfigurationError, UnavailableError

_TEMPORARY = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_NOBODYS_ANSWER = {401, 402, 403, 404, 405}
_LONGEST_WAIT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """What a model made of a prompt. error: why it failed; None: `text` is its answer.

    Tokens are None where the endpoint did not tell. lost: it failed under way, and may have been charged.
    """

    text: str = ""
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    lost: bool = False


@dataclass(frozen=True)
class Endpoint:
    """A base URL that ends in /v1; `retries` further attempts for what is temporary."""

    client: httpx.AsyncClient
    retries: int
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def ask(self, path: str, body: dict[str, Any], again: Callable[[], Awaitable[bool]]) -> Answer | None:
        """The model's answer, or its failure; None where `again` said no.

        Args:
            again: asked before a further attempt when one was lost, which may have been charged.

        Raises:
            UnavailableError: the endpoint cannot be reached or allows no more requests: nobody's failure.
            ConfigurationError: key, model or path are wrong.
        """
        for attempt in range(self.retries + 1):
            last, response = attempt == self.retries, None
            try:
                response = await self.client.post(path, json=body)
                if last or response.status_code not in _TEMPORARY or _has_no_quota(response):
                    return _read(response, body["model"])
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if last:
                    raise UnavailableError(
                        f"{self.client.base_url}: cannot be reached; start it or correct --url, then run this again"
                    ) from error
            except httpx.TransportError as error:
                if last:
                    return Answer(error=type(error).__name__, lost=True)
                if not await again():
                    return None
            await self.sleep(wait_before(response, attempt))
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


def _error(response: httpx.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _has_no_quota(response: httpx.Response) -> bool:
    return response.status_code == 429 and _error(response).get("code") == "insufficient_quota"


def _read(response: httpx.Response, model: str) -> Answer:
    status = response.status_code
    if status != 200:
        said = f"HTTP {status}: {_error(response).get('message') or response.reason_phrase}"[:500]
        if status < 400 or status in _NOBODYS_ANSWER:
            raise ConfigurationError(f"model {model!r}: {said}; correct key, URL or model, then run this again")
        if status == 429:
            raise UnavailableError(f"model {model!r}: {said}; run this again later")
        return Answer(error=said)
    try:
        body = response.json()
        choice, usage = body["choices"][0], body.get("usage") or {}
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        details = usage.get("prompt_tokens_details") or {}
        return Answer(
            text=text or "",
            input_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
            cached_tokens=details.get("cached_tokens"),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return Answer(error="the answer is none of OpenAI's form")
