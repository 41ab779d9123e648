"""What goes back to the ingress."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.types import Send

from apportion.deployments.wire.engine_headers import BUSY_HEADER
from apportion.router.errors import ApportionError, UnavailableError


class Reply:
    """One answer: whole, or begun and passed on piece by piece.

    Args:
        send: ASGI's.
        headers: of every answer.

    Attributes:
        begun: whether status and headers are sent.
    """

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self.begun = False
        self._send = send
        self._headers = dict(headers)

    def add(self, headers: Mapping[str, str]) -> None:
        """Headers beside those of every answer."""
        self._headers |= headers

    async def whole(self, status: int, body: bytes) -> None:
        """All of it."""
        await self._begin(status, {"content-type": "application/json", "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body})

    async def error(self, error: ApportionError, status: int | None = None) -> None:
        """Why there is none; the status is the error's if nothing else is said."""
        await self.whole(status or error.status, json.dumps(error.envelope()).encode())

    async def busy(self, busy_s: float) -> None:
        """The request had better go elsewhere, or come again when so many seconds have passed."""
        self.add({BUSY_HEADER: f"{busy_s:.3f}"})
        await self.error(UnavailableError("the provider takes no more requests for now", retry_after_s=busy_s))

    async def chunk(self, data: bytes) -> None:
        """A piece of a stream."""
        if not self.begun:
            await self._begin(200, {"content-type": "text/event-stream; charset=utf-8"})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        told = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in (self._headers | headers).items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": told})
