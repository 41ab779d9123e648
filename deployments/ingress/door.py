"""Who comes in: as many requests as an ingress has descriptors for, and bodies as far as it has memory and patience."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
from collections.abc import Iterator, Mapping

from starlette.requests import Request

from apportion.deployments.config.ingress import IngressConfig
from apportion.deployments.ingress.encoding import decoded
from apportion.deployments.wire.headers import TIMEOUT_HEADER
from apportion.router.errors import OverloadedError, PayloadTooLargeError, UploadTimeoutError

MAX_REQUESTS = 10_000
# Memory of a body's byte: as it came, parsed (four where one character of a text needs them), and on its way to the
# engine; and of a value of JSON in it.
BYTE_WEIGHT = 6
VALUE_WEIGHT = 64
_BEGINNINGS = (b",", b":", b"[", b"{")  # of a value: as many as these there are at most


def requests_by_descriptors() -> int:
    """Most requests at once that this process has descriptors for, after taking all that it may have.

    Each takes one from its client and one to its engine; an eighth is left for everything else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MAX_REQUESTS if soft == resource.RLIM_INFINITY else min(MAX_REQUESTS, soft * 7 // 16)


class Door:
    """Counts what is in flight in one ingress, requests and the memory of their bodies.

    Args:
        config: the bounds.
        timeout_s: the longest time of a request; its upload may have a part of it.
    """

    def __init__(self, config: IngressConfig, timeout_s: float) -> None:
        by_descriptors = requests_by_descriptors()
        self.max_requests = by_descriptors if config.max_requests is None else min(config.max_requests, by_descriptors)
        self.max_bytes = config.max_in_flight_bytes
        self.max_body_bytes = config.max_body_bytes
        self.upload_s = min(config.upload_timeout_s, timeout_s)
        self.requests = 0
        self.bytes_in_flight = 0

    @contextlib.contextmanager
    def request(self) -> Iterator[Upload]:
        """One request, while the context lasts.

        Raises:
            OverloadedError: as many as may be are in flight.
        """
        if self.requests >= self.max_requests:
            raise OverloadedError(f"{self.requests} requests are in flight, and no more fit; send this one again later")
        upload = Upload(self)
        self.requests += 1
        try:
            yield upload
        finally:
            self.requests -= 1
            upload.drop()


def asked_s(headers: Mapping[str, str]) -> float:
    """The time that the headers give a request; infinite where they give none, or none that can be read here."""
    try:
        asked = float(headers.get(TIMEOUT_HEADER, "inf"))
    except ValueError:
        return math.inf
    return asked if asked > 0 else math.inf


class Upload:
    """The body of one request, and the memory that it takes in all its copies."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._bytes = 0
        self.arrived_s = asyncio.get_running_loop().time()

    async def body(self, request: Request, most_bytes: int | None = None) -> bytes:
        """The whole body, opened where it came packed.

        Args:
            most_bytes: where that is less than for any body.

        Raises:
            InvalidRequestError: it cannot be opened.
            PayloadTooLargeError: it is larger than a body may be.
            UploadTimeoutError: it was not there in time.
            OverloadedError: there is no memory for it.
            ClientDisconnect: the client has left.
        """
        limit = min(self._door.max_body_bytes, most_bytes or self._door.max_body_bytes)
        limit_s = min(self._door.upload_s, asked_s(request.headers))
        chunks, size = [], 0
        try:
            async with asyncio.timeout(limit_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise PayloadTooLargeError(f"the body is larger than {limit} bytes; send less at once")
                    self._take(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise UploadTimeoutError(f"{size} bytes of the body came within {limit_s:g} s; send it faster") from None
        came = b"".join(chunks)
        opened = decoded(came, request.headers.getlist("content-encoding"), limit)
        if opened is not came:
            self._take(opened)
        return opened

    def seconds(self) -> float:
        """Since the request came."""
        return asyncio.get_running_loop().time() - self.arrived_s

    def drop(self) -> None:
        """The body is not needed any more."""
        self._door.bytes_in_flight -= self._bytes
        self._bytes = 0

    def _take(self, chunk: bytes) -> None:
        weight = BYTE_WEIGHT * len(chunk) + VALUE_WEIGHT * sum(map(chunk.count, _BEGINNINGS))
        if self._door.bytes_in_flight + weight > self._door.max_bytes:
            raise OverloadedError("too many bytes of requests are in flight; send this one again later")
        self._door.bytes_in_flight += weight
        self._bytes += weight
