"""Connections to engines: kept and reused; and whether an error in getting one is this machine's own."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import aiohttp

# What this process or this machine lacks, or forbids itself: no engine is to blame for it.
_OWN_ERRORS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EACCES,
        errno.EPERM,
    }
)


def is_own_trouble(error: aiohttp.ClientError) -> bool:
    """Whether there is no connection for a reason on this side: descriptors, ports, memory, network, names."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return True
    return isinstance(error, aiohttp.ClientOSError) and error.errno in _OWN_ERRORS


class Connections:
    """Two sessions, made on first use, since they belong to the event loop that they are used in.

    A call's `trace_request_ctx` gets the attribute `reused` set where it went out on a connection of another call: that
    one the engine may have closed at the same moment, without having seen the request.
    """

    def __init__(self) -> None:
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    @property
    def pooled(self) -> aiohttp.ClientSession:
        """Reuses what is idle."""
        if self._pooled is None:
            self._pooled = _session(aiohttp.TCPConnector(limit=0, ttl_dns_cache=300))
        return self._pooled

    @property
    def fresh(self) -> aiohttp.ClientSession:
        """Makes a connection for each call."""
        if self._fresh is None:
            self._fresh = _session(aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, force_close=True))
        return self._fresh

    async def close(self) -> None:
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(_mark_reused)
    return aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=["user-agent"], trace_configs=[tracing]
    )


async def _mark_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.reused = True
