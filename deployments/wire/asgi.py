"""What both ends of the data path need of ASGI."""

from __future__ import annotations

from starlette.types import Receive


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left; the request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
