"""A way between a channel and its listener that can be cut, and that can change what passes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from apportion.deployments.wire.channel import Address


class Severing:
    """Passes bytes on, on a port of its own; `address` is for the caller.

    `harm` is done to the caller's next piece: `alter`, `repeat`, `omit`, or `reflect` it to the caller.
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = target
        self.harm: str | None = None

    async def __aenter__(self) -> Severing:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = replace(self._target, port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.sleep(0.01)

    def cut(self) -> None:
        """Ends all connections that pass here."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pass(reader, back, writer), self._pass(there, writer, None))
        finally:
            for end in (writer, back):
                end.transport.abort()
                self._writers.discard(end)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: asyncio.StreamWriter | None
    ) -> None:
        try:
            while data := await reader.read(1 << 20):
                harm = None
                if caller is not None:
                    harm, self.harm = self.harm, None
                if harm == "alter":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                if harm == "repeat":
                    data += data
                if harm == "reflect" and caller is not None:
                    caller.write(data)
                if harm != "omit":
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
