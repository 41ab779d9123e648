"""A connection that carries messages both ways, each sealed: nothing is read that does not come from the other end.

Both ends know a secret. Each begins with a number that is used once, makes the connection's key of both numbers and the
secret, and proves that it has it with an empty first frame. A frame is its length, its seal and its bytes; the seal
counts, so that no frame can be left out, sent again or sent back. It hides nothing: it tells who wrote.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Any, cast

from apportion.deployments.wire.packing import pack, unpack

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
NONCE_BYTES = 16
SEAL_BYTES = 16
LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 256 << 20
GREETING_S = 5.0  # who has not proved by then that it knows the secret is a stranger
UNHEARD_S = 10  # what was sent and has not arrived by then: the other machine, or the way there, is gone


class SealedConnection(asyncio.Protocol):
    """One end of a connection.

    Args:
        listens: whether it is the end that was called; each end has its own seals.
        on_message: gets every message of the other end, in their order.
        on_end: called once when the connection is no more.
    """

    def __init__(
        self, secret: bytes, *, listens: bool, on_message: Callable[[Any], None], on_end: Callable[[], None]
    ) -> None:
        self.proved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self._secret = secret
        self._listens = listens
        self._on_message = on_message
        self._on_end = on_end
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._received = bytearray()
        self._seals: tuple[_Seals, _Seals] | None = None  # of this end and of the other
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _end_when_unheard(transport.get_extra_info("socket"))
        self._patience = asyncio.get_running_loop().call_later(GREETING_S, self.close)
        self._transport.write(self._nonce)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            if self._seals is None and len(self._received) >= NONCE_BYTES:
                self._greet(self._take(NONCE_BYTES))
            while not self.closed and (frame := self._next_frame()) is not None:
                if self.proved.done():
                    self._on_message(unpack(frame))
                else:
                    self._prove()
        except _StrangerError:
            logger.warning("a connection that does not come from this service was ended")
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.close()
        if not self.proved.done():
            self.proved.set_exception(ConnectionResetError("the other end does not know the secret, or is gone"))
            self.proved.exception()  # nobody has to ask for it
        self._on_end()

    def send(self, message: Any) -> None:
        """Sends a message.

        Raises:
            ConnectionError: the connection is no more.
            ValueError: the message is longer than MAX_MESSAGE_BYTES.
        """
        frame = pack(message)
        if len(frame) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(frame)} bytes is too long; send less at once")
        self._send(frame)

    def close(self) -> None:
        """Ends the connection at once; what was sent and has not gone out yet is lost."""
        if self.closed:
            return
        self.closed = True
        if self._patience is not None:
            self._patience.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _greet(self, other: bytes) -> None:
        nonces = other + self._nonce if self._listens else self._nonce + other
        key = hashlib.blake2b(nonces, key=self._secret).digest()
        seals = _Seals(key, b"calls"), _Seals(key, b"listens")
        self._seals = seals[self._listens], seals[not self._listens]
        self._send(b"")

    def _prove(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self.proved.set_result(None)

    def _send(self, frame: bytes) -> None:
        if self.closed or self._transport is None or self._seals is None:
            raise ConnectionResetError("the connection has ended")
        self._transport.write(b"".join((len(frame).to_bytes(LENGTH_BYTES, "big"), self._seals[0].of(frame), frame)))

    def _next_frame(self) -> bytes | None:
        """The next that is there in full; None: none is."""
        if self._seals is None or len(self._received) < LENGTH_BYTES + SEAL_BYTES:
            return None
        length = int.from_bytes(self._received[:LENGTH_BYTES], "big")
        if length > (MAX_MESSAGE_BYTES if self.proved.done() else 0):
            raise _StrangerError
        if len(self._received) < LENGTH_BYTES + SEAL_BYTES + length:
            return None
        _, seal, frame = self._take(LENGTH_BYTES), self._take(SEAL_BYTES), self._take(length)
        if not hmac.compare_digest(seal, self._seals[1].of(frame)):
            raise _StrangerError
        return frame

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken


class _StrangerError(Exception):
    """What has arrived is not from the other end."""


class _Seals:
    """The seals of one end's frames, one after another."""

    def __init__(self, key: bytes, end: bytes) -> None:
        self._key = key
        self._end = end
        self._count = 0

    def of(self, frame: bytes) -> bytes:
        self._count += 1
        seal = hashlib.blake2b(self._end, key=self._key, digest_size=SEAL_BYTES)
        seal.update(self._count.to_bytes(8, "big"))
        seal.update(frame)
        return seal.digest()


def _end_when_unheard(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNHEARD_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, UNHEARD_S // 2)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_S * 1000)
