"""The calls of a provider: one POST for each request, its answer passed on as it comes. Nothing is tried twice here."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from apportion.deployments.engine.external.account import Account
from apportion.deployments.engine.external.asked import Asked
from apportion.deployments.engine.external.counted import counted
from apportion.deployments.engine.external.credentials import Credentials
from apportion.deployments.engine.external.errors import envelope, trouble_of
from apportion.deployments.engine.external.events import EventStream, choices_of, generated, without_logprobs
from apportion.deployments.engine.external.reply import Reply
from apportion.deployments.engine.meter import Usage
from apportion.deployments.wire.engine_headers import UPSTREAM_ID_HEADER
from apportion.deployments.wire.logprobs import signals_of_choice
from apportion.deployments.wire.settlement import Settled, settled_comment, settled_headers
from apportion.router.errors import UnavailableError
from apportion.router.quota.answers import retry_after_s
from apportion.router.signals import Signals

logger = logging.getLogger(__name__)

PATHS = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "response": "/responses",
    "message": "/messages",
    "message_count": "/messages/count_tokens",
    "embedding": "/embeddings",
}
_IDS = ("x-router-id", "request-id", "x-request-id", "apim-request-id")
_KEEP_ALIVE_S = 4.0  # servers close what is idle for longer, maybe just as a request goes out on it
_CONNECT_S = 10.0
_TOO_MANY = 429
_ITS_FAULT = frozenset({408, 425})  # beside 5xx, and what is no answer
_SHOWN = ("choices", "content", "output")  # where answers hold what was generated


class CutOffError(Exception):
    """The provider broke off an answer that has begun."""


@dataclass(slots=True)
class Call:
    """One request at the provider.

    Args:
        kind: of request, as `PATHS` has it.
        used: is told what it cost.
        reply: takes the answer.
        booked: tokens that it was sent for.
    """

    kind: str
    asked: Asked
    used: Usage
    reply: Reply
    booked: float
    began_s: float = field(default_factory=time.monotonic)


class Provider:
    """Asks for answers, and learns from them.

    Args:
        url: before the paths.
    """

    def __init__(self, url: str, credentials: Credentials, account: Account) -> None:
        self._url = url
        self._proxy = _proxy(url)
        self._credentials = credentials
        self._account = account
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            skip_auto_headers=["user-agent"],
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    async def answer(self, kind: str, asked: Asked, used: Usage, reply: Reply) -> None:
        """Passes one request's answer on; leaving it closes its connection.

        Raises:
            BusyError: the provider takes no more for now.
            UnavailableError: it has failed, and nothing was passed on.
            CutOffError: it has failed, and something was.
        """
        booked = self._account.tokens(asked.size, asked.longest)
        async with self._account.sending(booked):
            call = Call(kind, asked, used, reply, booked)
            used.doubt()  # from here on nobody but the provider knows what it costs
            try:
                async with self._post(call) as answer:
                    await self._pass_on(call, answer)
            except (aiohttp.ClientError, TimeoutError) as error:
                if reply.begun:
                    raise CutOffError from None
                if isinstance(error, aiohttp.ClientConnectorError):
                    used.settle(0, 0)
                raise UnavailableError(f"the provider gave no answer ({type(error).__name__})") from None

    def _post(self, call: Call) -> Any:
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if call.asked.stream else "application/json",
            "accept-encoding": "identity",
            **self._credentials.headers(),
        }
        return self._session.post(
            self._url + PATHS[call.kind],
            data=call.asked.body,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
        )

    async def _pass_on(self, call: Call, answer: aiohttp.ClientResponse) -> None:
        if (name := next((answer.headers[one] for one in _IDS if one in answer.headers), None)) is not None:
            call.reply.add({UPSTREAM_ID_HEADER: self._credentials.hide(name[:128])})
        if answer.status != 200:
            await self._refusal(call, answer.status, answer.headers, await answer.read())
            return
        self._account.told(answer.headers)
        if call.asked.stream and answer.headers.get("content-type", "").startswith("text/event-stream"):
            await self._stream(call, answer)
        else:
            await self._whole(call, answer)

    async def _whole(self, call: Call, answer: aiohttp.ClientResponse) -> None:
        body = await answer.read()
        told = _object(body)
        if told is None or (told.get("error") and not any(told.get(name) for name in _SHOWN)):
            await self._refusal(call, _code(told), answer.headers, body)  # an error, whatever its status says
            return
        signals = _signals(told) if call.asked.signals else None
        if call.asked.signals and not call.asked.logprobs_wanted:
            told = without_logprobs(told)
            body = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
        size = sum(generated(told.get(name)) for name in _SHOWN)
        call.reply.add(settled_headers(self._settle(call, told.get("usage"), size)._replace(signals=signals)))
        await call.reply.whole(200, body)

    async def _stream(self, call: Call, answer: aiohttp.ClientResponse) -> None:
        hides = call.asked.signals and not call.asked.logprobs_wanted
        stream = EventStream(usage_wanted=call.asked.usage_wanted, logprobs_hidden=hides)
        async for chunk in answer.content.iter_any():
            if passed := b"".join(stream.events(chunk)):
                await call.reply.chunk(passed)
            if stream.error is not None:
                break
        if stream.error is not None and not call.reply.begun:
            await self._refusal(call, _code(_object(stream.error)), answer.headers, stream.error)
            return
        if not stream.complete:
            raise aiohttp.ClientPayloadError
        signals = signals_of_choice({"logprobs": stream.logprobs}) if call.asked.signals else None
        settled = self._settle(call, stream.usage, stream.size)._replace(signals=signals)
        await call.reply.chunk(settled_comment(settled).encode())
        if stream.done:
            await call.reply.chunk(b"data: [DONE]\n\n")
        await call.reply.end()

    async def _refusal(self, call: Call, status: int, headers: Any, body: bytes) -> None:
        """Passes on what is the request's own fault.

        Raises:
            BusyError: the provider takes no more for now, or nothing until somebody acts.
            UnavailableError: it has failed.
        """
        call.used.settle(0, 0)
        if (trouble := trouble_of(status, body)) is not None:
            raise self._account.fails(trouble)
        if status == _TOO_MANY:
            raise self._account.refused(retry_after_s(headers, time.time()))
        if status in _ITS_FAULT or not 400 <= status < 500:
            raise UnavailableError(f"the provider failed with status {status}")
        self._account.works()
        await call.reply.whole(status, json.dumps(envelope(body, status, self._credentials.hide)).encode())

    def _settle(self, call: Call, usage: Any, size: int) -> Settled:
        """What an answer cost: as the provider counts, or, where it does not, as its answers before let expect.

        Args:
            size: bytes of what was generated.
        """
        if call.kind == "message_count":  # which generates nothing, and is free
            return call.used.settle(0, 0)
        found = counted(usage)
        if found is None:
            tokens = self._account.guess(call.asked.size, size)
        else:
            tokens = found
            self._account.learn(tokens, call.asked.size, size)
        used = call.used
        used.read("", "", tokens.input)
        used.from_cache("", tokens.cached)
        settled = used.settle(tokens.input, tokens.output)
        self._account.answered(time.monotonic() - call.began_s, call.booked, tokens.input + tokens.output)
        return settled._replace(estimated=found is None)


def _proxy(url: str) -> str | None:
    """As the environment says; aiohttp would look for passwords too, and send those in place of the key."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _signals(told: dict[str, Any]) -> Signals | None:
    """Of a whole answer; ingresses ask for those of one choice only."""
    return next((signals_of_choice(one) for one in choices_of(told)), None)


def _code(told: dict[str, Any] | None) -> int:
    """The status that an error names itself; 502 where it names none."""
    error = told.get("error") if told is not None else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 502
