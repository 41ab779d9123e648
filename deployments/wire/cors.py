"""Web pages of other origins may call the service where the configuration says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class Cors:
    """Answers browsers' preflights, which carry no key, and exposes headers to the pages that are allowed.

    What is allowed belongs to the process: Serve freezes an application before its configuration is known.
    """

    _allowed: ClassVar[tuple[tuple[str, ...], int] | None] = None

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._guarded: ASGIApp | None = None

    @classmethod
    def allow(cls, origins: Sequence[str], max_age_s: int) -> None:
        """Lets pages of these origins in, from now on; `*`: all."""
        cls._allowed = (tuple(origins), max_age_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._guarded is None and self._allowed is not None:
            origins, max_age_s = self._allowed
            self._guarded = CORSMiddleware(
                self._app,
                allow_origins=origins,
                allow_methods=("DELETE", "GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=("*",),  # all that an answer has, x-router-* among them
                max_age=max_age_s,
            )
        await (self._guarded or self._app)(scope, receive, send)
