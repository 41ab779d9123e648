"""What the Router keeps: a record of every request that has ended, and what callers say of answers."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict
from functools import partial
from typing import Any

from apportion.deployments.config.records import RecordsConfig
from apportion.deployments.control.record_rows import MakeRow, RecordRows
from apportion.deployments.wire.feedback import Feedback
from apportion.router.batch.events import Events
from apportion.router.errors import UnavailableError
from apportion.router.records.names import AnswerNames
from apportion.router.records.schema import FEEDBACK, REQUESTS
from apportion.router.records.store import Store


class Recording:
    """The Router's writer, and the secret that answers are named with.

    Args:
        config: where and for how long.
        router: the Router's incarnation.
        events: of the batch room, of which it hears how requests end.
    """

    def __init__(self, config: RecordsConfig, router: str, events: Events) -> None:
        self._uri = config.uri
        self._lock = threading.Lock()
        self._opened: tuple[Store, bytes] | None = None
        self._writer = config.writer(REQUESTS, FEEDBACK, open_store=lambda: self._open()[0])
        self._writer.start()
        events.subscribe(RecordRows(router, self._request))

    async def secret(self) -> bytes:
        """Of the store.

        Raises:
            ApportionError, OSError: the store cannot be opened.
        """
        _, secret = await asyncio.to_thread(self._open)
        return secret

    def feedback(self, said: Feedback) -> None:
        """Keeps what was said of an answer.

        Raises:
            UnavailableError: there is no place for it.
        """
        if not self._writer.put(FEEDBACK, partial(asdict, said)):
            raise UnavailableError("feedback cannot be kept at the moment; send it again later", retry_after_s=60.0)

    def state(self) -> dict[str, Any]:
        """How many rows there was no place for, and what is the matter with the store; None: nothing."""
        dropped = {kind.name: self._writer.dropped(kind) for kind in (REQUESTS, FEEDBACK)}
        return {"dropped": dropped, "error": self._writer.error}

    def close(self) -> None:
        """Writes what waits."""
        self._writer.close()

    def _request(self, make: MakeRow) -> None:
        self._writer.put(REQUESTS, lambda: make(AnswerNames(self._open()[1])))

    def _open(self) -> tuple[Store, bytes]:
        with self._lock:
            if self._opened is None:
                store = Store.open(self._uri)
                self._opened = store, store.secret()
            return self._opened
