"""Calls between two of the service's processes over one connection that lasts: a sixth of what a Serve call costs.

Who is called listens on a port; who calls asks over Serve where that is, and for the secret that opens it. A call that
fails ends the connection, and the next one asks again: whoever is there then is called.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from apportion.deployments.wire.listening import listen
from apportion.deployments.wire.sealed import SECRET_BYTES, SealedConnection
from apportion.router.errors import ApportionError, UnavailableError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where calls are answered, and the secret of those who may call."""

    host: str
    port: int
    secret: bytes = field(repr=False)


class Listener:
    """Answers calls.

    Args:
        answer: called with a call's arguments; cancelled when the caller is gone.
        ports: the first and the last that it may listen on.
        option: of the configuration, that says so.
    """

    def __init__(self, answer: Callable[..., Awaitable[Any]], ports: tuple[int, int], option: str) -> None:
        self._answer = answer
        self._ports = ports
        self._option = option
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._address: Address | None = None
        self._opening: asyncio.Task[asyncio.Server] | None = None
        self._lines: set[_Answering] = set()

    async def start(self, host: str) -> Address:
        """Where it listens; from the first call on it does.

        Raises:
            ConfigurationError: all ports are taken.
        """
        if self._address is None or self._opening is None:
            line = listen(host, self._ports, self._option)
            self._address = Address(host, line.getsockname()[1], self._secret)
            # In a context of its own: Serve cancels what was called in that of a call that is cancelled.
            opening = asyncio.get_running_loop().create_server(self._accept, sock=line)
            self._opening = asyncio.create_task(opening, context=Context())
        await asyncio.shield(self._opening)
        return self._address

    def close(self) -> None:
        """Ends all connections."""
        if self._opening is not None and not self._opening.cancel():
            self._opening.result().close()
        for line in list(self._lines):
            line.connection.close()

    def _accept(self) -> SealedConnection:
        line = _Answering(self._answer, self._secret, self._lines.discard)
        self._lines.add(line)
        return line.connection


class _Answering:
    """The calls of one connection."""

    def __init__(
        self, answer: Callable[..., Awaitable[Any]], secret: bytes, on_end: Callable[[_Answering], None]
    ) -> None:
        self._answer = answer
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self.connection = SealedConnection(secret, listens=True, on_message=self._called, on_end=self._end)

    def _called(self, message: tuple[int, tuple[Any, ...]]) -> None:
        task = asyncio.create_task(self._reply(*message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, number: int, arguments: tuple[Any, ...]) -> None:
        try:
            reply = await self._answer(*arguments)
        except ApportionError as error:
            reply = error
        except Exception:
            logger.exception("a call failed")
            reply = ApportionError("a call failed; the log of who was called has the details")
        try:
            self.connection.send((number, reply))
        except ConnectionError:
            pass  # the caller is gone
        except Exception:
            logger.exception("an answer could not be sent")
            self.connection.close()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._on_end(self)


class Channel:
    """Calls whoever is at an address.

    Args:
        find: tells the address of the moment.
        whom: for messages.
    """

    def __init__(self, find: Callable[[], Awaitable[Address]], whom: str) -> None:
        self._find = find
        self._whom = whom
        self._opening = asyncio.Lock()
        self._line: _Asking | None = None

    async def call(self, *arguments: Any) -> Any:
        """The answer; a call that is cancelled or fails ends all others, since nobody knows what is still in order.

        Raises:
            ApportionError: what was called has raised it; or nobody can be called.
            ConnectionError: it was lost before it answered.
        """
        line = await self._open()
        try:
            return await line.ask(arguments)
        except BaseException:
            line.connection.close()
            raise

    def close(self) -> None:
        if self._line is not None:
            self._line.connection.close()

    async def _open(self) -> _Asking:
        async with self._opening:
            if self._line is None or self._line.connection.closed:
                self._line = await self._opened(await self._find())
            return self._line

    async def _opened(self, address: Address) -> _Asking:
        line = _Asking(address.secret)
        opening = asyncio.get_running_loop().create_connection(lambda: line.connection, address.host, address.port)
        try:
            await asyncio.create_task(opening, context=Context())
            await line.connection.proved
        except OSError as error:
            raise UnavailableError(
                f"{self._whom} cannot be reached at {address.host}:{address.port}; allow connections there"
            ) from error
        except BaseException:
            line.connection.close()
            raise
        return line


class _Asking:
    """The calls of one connection that have no answer yet."""

    def __init__(self, secret: bytes) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self.connection = SealedConnection(secret, listens=False, on_message=self._answered, on_end=self._end)

    async def ask(self, arguments: tuple[Any, ...]) -> Any:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.connection.send((number, arguments))
            return await self._waiting[number]
        finally:
            del self._waiting[number]

    def _answered(self, message: tuple[int, Any]) -> None:
        number, reply = message
        waiting = self._waiting.get(number)
        if waiting is None or waiting.done():
            return
        if isinstance(reply, ApportionError):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def _end(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the connection has ended before the answer"))
