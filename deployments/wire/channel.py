"""Calls between two of the service's processes over one connection that lasts: a sixth of what a Serve call costs.

Who is called listens on a port; who calls asks over Serve where that is, and for the secret that opens it. A call that
fails ends the connection, and the next one asks again: whoever is there then is called. A call that is cancelled ends
where it is answered.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from apportion.deployments.wire.listening import listen
from apportion.deployments.wire.sealed import SECRET_BYTES, SealedConnection
from apportion.router.errors import ApportionError, UnavailableError

logger = logging.getLogger(__name__)

LOOK_S = 5.0  # between two looks for replicas that are not called yet


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
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.connection = SealedConnection(secret, listens=True, on_message=self._called, on_end=self._end)

    def _called(self, message: tuple[int, tuple[Any, ...] | None]) -> None:
        """Begins with a call, or ends it where its caller has given it up."""
        number, arguments = message
        if arguments is not None:
            task = self._tasks[number] = asyncio.create_task(self._reply(number, arguments))
            task.add_done_callback(lambda _: self._tasks.pop(number))
        elif (task_or_none := self._tasks.get(number)) is not None:
            task_or_none.cancel()

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
        for task in list(self._tasks.values()):
            task.cancel()
        self._on_end(self)


class Channel:
    """Calls whoever is at an address.

    Args:
        find: tells the address of the moment, of one replica or another.
        whom: for messages.
        replicas: that calls are to be spread over.
    """

    def __init__(self, find: Callable[[], Awaitable[Address]], whom: str, replicas: int = 1) -> None:
        self._find = find
        self._whom = whom
        self._replicas = replicas
        self._opening = asyncio.Lock()
        self._lines: dict[Address, _Asking] = {}
        self._looking: asyncio.Task[None] | None = None
        self._look_s = -math.inf  # when replicas were last looked for

    async def call(self, *arguments: Any) -> Any:
        """The answer of the least busy replica; one that fails a call is left, and found anew for the next.

        Raises:
            ApportionError: what was called has raised it; or nobody can be called.
            ConnectionError: it was lost before it answered.
        """
        line = await self._line()
        try:
            return await line.ask(arguments)
        except Exception:
            line.connection.close()
            raise

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for line in self._lines.values():
            line.connection.close()

    async def _line(self) -> _Asking:
        if not self._open:
            async with self._opening:
                if not self._open:
                    await self._add()
        elif len(self._open) < self._replicas and time.monotonic() - self._look_s > LOOK_S:
            self._look_s = time.monotonic()
            # In a context of its own, and so are connections: Serve cancels what was called in that of a call that is
            # cancelled.
            self._looking = asyncio.create_task(self._look(), context=Context())
        if not (lines := self._open):
            raise ConnectionResetError("the connection has ended before the call")
        return min(lines, key=lambda line: line.waiting)

    @property
    def _open(self) -> list[_Asking]:
        return [line for line in self._lines.values() if not line.connection.closed]

    async def _look(self) -> None:
        async with self._opening:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._add()
            except Exception as error:
                logger.warning("no further replica of %s was found: %s", self._whom, type(error).__name__)

    async def _add(self) -> None:
        """Opens a line to the replica that is found, unless there is one."""
        self._lines = {address: line for address, line in self._lines.items() if not line.connection.closed}
        address = await self._find()
        if address in self._lines:
            return
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
        self._lines[address] = line


class _Asking:
    """The calls of one connection that have no answer yet."""

    def __init__(self, secret: bytes) -> None:
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self.connection = SealedConnection(secret, listens=False, on_message=self._answered, on_end=self._end)

    @property
    def waiting(self) -> int:
        """How many."""
        return len(self._calls)

    async def ask(self, arguments: tuple[Any, ...]) -> Any:
        number = next(self._numbers)
        self.connection.send((number, arguments))
        self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            return await self._calls[number]
        except asyncio.CancelledError:
            if not self.connection.closed:
                self.connection.send((number, None))
            raise
        finally:
            del self._calls[number]

    def _answered(self, message: tuple[int, Any]) -> None:
        number, reply = message
        call = self._calls.get(number)
        if call is None or call.done():
            return
        if isinstance(reply, ApportionError):
            call.set_exception(reply)
        else:
            call.set_result(reply)

    def _end(self) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(ConnectionResetError("the connection has ended before the answer"))
