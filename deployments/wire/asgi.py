"""What the ends of the data path need of ASGI."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Answers HEAD with the status and the headers of GET, and no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


class PlainPaths:
    """Reads doubled slashes in a path as one, and none at its end: bases and paths are joined in many ways."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = re.sub("/{2,}", "/", scope["path"])
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await self._app(scope, receive, send)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left; the request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def until_gone(work: Coroutine[Any, Any, None], receive: Receive) -> asyncio.Task[None]:
    """Works for a client until it is done or the client has left; the task has ended, and is cancelled if it has left.

    Args:
        receive: of the client; the request's body must have been read.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    return task


def abort_of(receive: Receive) -> Callable[[], None]:
    """What closes the client's connection at once, with all that it has not read; ASGI has no word for it.

    Uvicorn's transport, where `receive` is its own or Serve's around it; elsewhere nothing, and the server closes the
    connection of an answer that did not end when the client has read what there is.
    """
    cycle = getattr(getattr(receive, "_receive", receive), "__self__", None)
    abort: Callable[[], None] | None = getattr(getattr(cycle, "transport", None), "abort", None)
    return abort or (lambda: None)
