"""Takes files and batches in, and tells what became of them; keeps nothing itself."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, BinaryIO, TypeVar

from starlette.requests import Request

from apportion.deployments.config.bulk import BulkConfig
from apportion.deployments.config.keys import Permissions
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.bulk import upload
from apportion.deployments.ingress.bulk.bodies import (
    DAY_S,
    Expiry,
    choice_asked,
    number_asked,
    read_batch,
    validated,
)
from apportion.deployments.ingress.bulk.objects import batch_object, file_object, page
from apportion.deployments.ingress.bulk.threads import Threads
from apportion.deployments.ingress.client import Client, StalledClientError
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.keys.caller import Caller
from apportion.router.budget import Account
from apportion.router.errors import ConfigurationError, InvalidRequestError, OverloadedError, UnavailableError
from apportion.router.jobs.blobs import Blobs, open_blobs
from apportion.router.jobs.records import FileRecord, Job, path_of_file
from apportion.router.jobs.store import JobStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_UPLOADS = 32  # at once in one ingress
OWN_UPLOADS = 8  # of these, one caller's
WRITE_BYTES = 1 << 20  # that are written at a time
READ_BYTES = 1 << 18
MAX_FILES = 10_000  # of a page, as OpenAI has it
MAX_BATCHES = 100
BATCHES = 20
SECRET_BYTES = 16  # of an id, which nobody guesses
_FILE_HEADERS = [(b"content-type", b"application/octet-stream"), (b"content-disposition", b"attachment")]


class Desk:
    """What the routes of files and batches do.

    Args:
        config: has a section `bulk`.
        clock: seconds since 1970.
    """

    def __init__(self, config: ServiceConfig, rules: Rules, clock: Callable[[], float] = time.time) -> None:
        assert config.bulk is not None
        self._bulk: BulkConfig = config.bulk
        self._budget = config.budget
        self._stall_s = config.ingress.upload_timeout_s
        self._rules = rules
        self._clock = clock
        self._threads = Threads()
        self._uploads: Counter[Account] = Counter()
        self._opened: tuple[JobStore, Blobs] | None = None

    def close(self) -> None:
        self._threads.close()
        if self._opened is not None:
            self._opened[0].close()

    async def upload(self, request: Request, caller: Caller) -> dict[str, Any]:
        """Keeps a file that comes as a form.

        Raises:
            InvalidRequestError: the form is wrong; names the field.
            PayloadTooLargeError: the file is too large, or the caller's files are, all together.
            OverloadedError: too many others upload.
        """
        owner = caller.account
        if self._uploads[owner] >= OWN_UPLOADS or self._uploads.total() >= MAX_UPLOADS:
            raise OverloadedError("too many files are being sent; send this one again later")
        self._uploads[owner] += 1
        try:
            return file_object(await self._kept(request, owner))
        finally:
            self._uploads[owner] -= 1
            self._uploads += Counter()  # keeps no caller who sends nothing

    async def files(self, request: Request, caller: Caller) -> dict[str, Any]:
        """A page of the caller's files."""
        query = request.query_params
        limit = number_asked(query, "limit", MAX_FILES, MAX_FILES)
        newest_first = choice_asked(query, "order", ("desc", "asc")) == "desc"
        ask = partial(
            JobStore.files,
            owner=caller.account,
            limit=limit,
            after=query.get("after"),
            purpose=query.get("purpose"),
            newest_first=newest_first,
        )
        found, more = await self._ask(ask)
        return page([file_object(file) for file in found], more)

    async def file(self, file_id: str, caller: Caller) -> dict[str, Any]:
        """Raises: NotFoundError: the caller has none of that id."""
        return file_object(await self._ask(JobStore.file, caller.account, file_id))

    async def delete_file(self, file_id: str, caller: Caller) -> dict[str, Any]:
        """Raises: NotFoundError: the caller has none of that id. InvalidRequestError: a batch reads it."""
        file = await self._ask(JobStore.delete_file, caller.account, file_id)
        with contextlib.suppress(OSError):  # what stays is swept later
            await self._threads.run(self._blobs.delete, file.path)
        return {"id": file.id, "object": "file", "deleted": True}

    async def send_content(self, file_id: str, caller: Caller, client: Client) -> None:
        """Sends the bytes of a file.

        Raises:
            NotFoundError: the caller has none of that id.
            UnavailableError: it cannot be read now.
        """
        file = await self._ask(JobStore.file, caller.account, file_id)
        with contextlib.ExitStack() as stack:
            with _reachable():
                stream = await self._threads.run(stack.enter_context, self._blobs.reading(file.path))
            await client.start_stream(200, [*_FILE_HEADERS, (b"content-length", str(file.bytes).encode())])
            try:
                while piece := await self._threads.run(stream.read, READ_BYTES):
                    await client.chunk(piece)
                await client.end()
            except StalledClientError:
                client.abort()

    async def create_batch(self, raw: bytes, caller: Caller) -> tuple[dict[str, Any], list[str]]:
        """Writes down a batch for a worker to find; also returns the names of fields that mean nothing.

        Raises:
            InvalidRequestError: a field is wrong; names it.
            RateLimitError: too many of the caller's batches have not ended.
        """
        body, ignored = read_batch(raw, self._bulk, self._rules, caller)
        now = int(self._clock())
        permitted = caller.permissions.model_dump(mode="json", include=set(Permissions.model_fields))
        job = Job(
            f"batch_{secrets.token_hex(SECRET_BYTES)}",
            caller.account,
            body.endpoint,
            body.input_file_id,
            body.completion_window,
            now + body.window_s,
            stamps={"created_at": now},
            output_expires_s=None if body.output_expires_after is None else body.output_expires_after.seconds,
            metadata=body.metadata,
            routing=body.routing.model_dump(mode="json", exclude_unset=True),
            caller=permitted,
        )
        await self._ask(JobStore.add_job, job, self._bulk.max_open)
        return batch_object(job), ignored

    async def batches(self, request: Request, caller: Caller) -> dict[str, Any]:
        """A page of the caller's batches, the newest first."""
        query = request.query_params
        limit = number_asked(query, "limit", BATCHES, MAX_BATCHES)
        found, more = await self._ask(partial(JobStore.jobs, limit=limit, after=query.get("after")), caller.account)
        return page([batch_object(job) for job in found], more)

    async def batch(self, batch_id: str, caller: Caller) -> dict[str, Any]:
        """Raises: NotFoundError: the caller has none of that id."""
        return batch_object(await self._ask(JobStore.job, caller.account, batch_id))

    async def cancel_batch(self, batch_id: str, caller: Caller) -> dict[str, Any]:
        """Raises: NotFoundError: the caller has none of that id. InvalidRequestError: it has ended."""
        return batch_object(await self._ask(JobStore.cancel, caller.account, batch_id, self._clock()))

    async def _kept(self, request: Request, owner: Account) -> FileRecord:
        await self._open()
        file_id = f"file-{secrets.token_hex(SECRET_BYTES)}"
        path = path_of_file(file_id)
        with _reachable():
            async with self._writing(path) as keep:
                form = await upload.receive(request, self._bulk.max_file_bytes, self._stall_s, keep)
                expires_s = _checked_fields(form.fields, int(self._bulk.file_days * DAY_S))
        now = int(self._clock())
        name, size = str(form.filename), form.file_bytes
        file = FileRecord(file_id, owner, name, "batch", size, now, now + expires_s)
        try:
            await self._ask(JobStore.add_file, file, self._bulk.max_stored_bytes)
        except BaseException:
            with contextlib.suppress(OSError):
                await self._threads.run(self._blobs.delete, path)
            raise
        return file

    @contextlib.asynccontextmanager
    async def _writing(self, path: str) -> AsyncIterator[Callable[[bytes], Any]]:
        """Writes a file with some pieces at a time; yields what takes a piece."""
        stack = contextlib.ExitStack()
        waiting = bytearray()

        async def flush() -> None:
            data = bytes(waiting)
            waiting.clear()
            await self._threads.run(stream.write, data)

        async def keep(piece: bytes) -> None:
            waiting.extend(piece)
            if len(waiting) >= WRITE_BYTES:
                await flush()

        try:
            stream: BinaryIO = await self._threads.run(stack.enter_context, self._blobs.writing(path))
            yield keep
            await flush()
        except BaseException as error:
            await self._threads.run(stack.__exit__, type(error), error, None)
            raise
        await self._threads.run(stack.close)

    async def _ask(self, work: Callable[..., T], *arguments: object) -> T:
        store, _ = await self._open()
        return await self._threads.run(work, store, *arguments)

    @property
    def _blobs(self) -> Blobs:
        assert self._opened is not None
        return self._opened[1]

    async def _open(self) -> tuple[JobStore, Blobs]:
        """With the first request, so that an ingress starts, and answers chats, while the database does not."""
        if self._opened is None:
            opened = await self._threads.run(self._opening)
            if self._opened is None:
                self._opened = opened
            else:
                opened[0].close()
        return self._opened

    def _opening(self) -> tuple[JobStore, Blobs]:
        try:
            blobs = open_blobs(self._bulk.place)
            return JobStore(self._bulk.database_url(self._budget)), blobs
        except ConfigurationError as error:
            logger.error("files and batches cannot be kept: %s", error.message)
            raise UnavailableError("files and batches cannot be kept now; the log of the ingress says why") from error


@contextlib.contextmanager
def _reachable() -> Any:
    try:
        yield
    except OSError as error:
        logger.error("files cannot be kept or read: %s", type(error).__name__)
        raise UnavailableError("the store of files does not answer; try again in some seconds") from error


def _checked_fields(fields: dict[str, str], default_s: int) -> int:
    """How long the file of a form is to be kept, in seconds.

    Raises:
        InvalidRequestError: a field is wrong.
    """
    if fields.get("purpose") != "batch":
        raise InvalidRequestError("purpose: must be batch; other files mean nothing here", param="purpose")
    asked = {
        name: fields[f"expires_after[{name}]"] for name in ("anchor", "seconds") if f"expires_after[{name}]" in fields
    }
    if not asked:
        return default_s
    expiry: Expiry = validated(Expiry, asked)
    return expiry.seconds
