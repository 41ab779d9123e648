"""Files and jobs in the budget ledger's database: the same for every process that shares it, whoever is killed when.

A job has one worker at a time, by a lease: who takes it raises its epoch, and what is written under an earlier one is
refused. A state that ends a job is followed by no other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import SQLAlchemyError

from apportion.router.budget import Account
from apportion.router.budget.schema import READS, connect, transact, unusable
from apportion.router.errors import (
    InvalidRequestError,
    LeaseLostError,
    NotFoundError,
    PayloadTooLargeError,
    RateLimitError,
)
from apportion.router.jobs.records import FileRecord, Job, columns_of, file_of, job_of, owner_text
from apportion.router.jobs.schema import files, jobs, metadata
from apportion.router.jobs.states import FOLLOWS, STAMPS, TERMINAL, Status, check_move

T = TypeVar("T")

_DATABASE = "the database of files and batches"
_ENDED = sorted(TERMINAL)
_SOME = 100  # files or jobs that one transaction forgets


class JobStore:
    """Blocking; any thread may call at any time, each call in one transaction.

    All raise LedgerError where the database cannot be used, and then nothing has changed.

    Args:
        url: of the database; see `apportion.router.budget.schema.connect`.

    Raises:
        ConfigurationError: the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._engine = connect(url, more=metadata)

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def add_file(self, file: FileRecord, most_bytes: int | None = None) -> None:
        """Remembers a file whose bytes are in their place.

        Args:
            most_bytes: of all files of its owner, this one included; None: any.

        Raises:
            PayloadTooLargeError: it has no room.
        """

        def add(connection: Connection) -> None:
            if most_bytes is not None:
                held = select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.owner == owner_text(file.owner))
                if (total := file.bytes + int(connection.execute(held).scalar_one())) > most_bytes:
                    raise PayloadTooLargeError(
                        f"your files would take {total} bytes, and may take {most_bytes}; delete some first"
                    )
            connection.execute(insert(files).values(columns_of(vars(file))))

        self._transact(add)

    def file(self, owner: Account, file_id: str) -> FileRecord:
        """Raises: NotFoundError: its owner has none of that id."""
        return self._read(lambda connection: _file(connection, owner, file_id))

    def files(
        self,
        owner: Account,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        newest_first: bool = True,
    ) -> tuple[list[FileRecord], bool]:
        """A page of an owner's files, and whether there are more.

        Args:
            after: the last file of the page before.

        Raises:
            InvalidRequestError: there is no file `after`.
        """
        rows = select(files).where(files.c.owner == owner_text(owner))
        if purpose is not None:
            rows = rows.where(files.c.purpose == purpose)
        found, more = self._page(files, rows, owner, after, limit, newest_first)
        return [file_of(row) for row in found], more

    def delete_file(self, owner: Account, file_id: str) -> FileRecord:
        """Forgets a file, whose bytes are then to be removed.

        Raises:
            NotFoundError: its owner has none of that id.
            InvalidRequestError: a job that has not ended reads it.
        """

        def forget(connection: Connection) -> FileRecord:
            file = _file(connection, owner, file_id, keep=True)
            job_id = connection.execute(_readers(file_id)).scalar()
            if job_id is not None:
                raise InvalidRequestError(f"{file_id} is the input of {job_id}, which has not ended; cancel that first")
            connection.execute(delete(files).where(files.c.id == file_id))
            return file

        return self._transact(forget)

    def add_job(self, job: Job, most_open: int | None = None) -> None:
        """Remembers a job that nobody works on yet.

        Args:
            most_open: jobs of its owner that have not ended, this one included; None: any.

        Raises:
            InvalidRequestError: its owner has no such input file, or it is none for batches.
            RateLimitError: its owner has as many as may be.
        """

        def add(connection: Connection) -> None:
            try:
                file = _file(connection, job.owner, job.input_file_id, keep=True)
            except NotFoundError as error:
                raise InvalidRequestError(error.message, param="input_file_id") from None
            if file.purpose != "batch":
                raise InvalidRequestError(
                    f"{file.id} has the purpose {file.purpose}; upload it with batch", param="input_file_id"
                )
            if most_open is not None:
                mine = jobs.c.owner == owner_text(job.owner)
                count = select(func.count()).select_from(jobs).where(mine, jobs.c.status.not_in(_ENDED))
                if connection.execute(count).scalar_one() >= most_open:
                    raise RateLimitError(f"{most_open} batches of yours have not ended; wait for one, or cancel one")
            connection.execute(insert(jobs).values(columns_of(vars(job))))

        self._transact(add)

    def job(self, owner: Account, job_id: str) -> Job:
        """Raises: NotFoundError: its owner has none of that id."""
        return self._read(lambda connection: _job(connection, job_id, owner))

    def jobs(self, owner: Account, *, limit: int, after: str | None = None) -> tuple[list[Job], bool]:
        """A page of an owner's jobs, the newest first, and whether there are more.

        Raises:
            InvalidRequestError: there is no job `after`.
        """
        rows = select(jobs).where(jobs.c.owner == owner_text(owner))
        found, more = self._page(jobs, rows, owner, after, limit, newest_first=True)
        return [job_of(row) for row in found], more

    def cancel(self, owner: Account, job_id: str, now_s: float) -> Job:
        """Has a job stop; one that is being cancelled stays so. Its worker ends it.

        Raises:
            NotFoundError: its owner has none of that id.
            InvalidRequestError: it has ended, or is about to.
        """

        def stop(connection: Connection) -> Job:
            job = _job(connection, job_id, owner, for_update=True)
            if job.status in {Status.cancelling, Status.cancelled}:
                return job
            if Status.cancelling not in FOLLOWS[job.status]:
                raise InvalidRequestError(f"a batch that is {job.status} cannot be cancelled; leave it as it is")
            return _change(connection, job, _moved(job, Status.cancelling, now_s))

        return self._transact(stop)

    def lease(self, holder: str, *, now_s: float, lease_s: float, besides: Collection[str] = ()) -> Job | None:
        """The most urgent job that nobody works on, from now on this holder's; None: there is none.

        Args:
            lease_s: the lease ends after so long, unless it is renewed.
            besides: jobs that are not wanted.
        """
        free = or_(jobs.c.holder.is_(None), jobs.c.lease_until_s < now_s)
        rows = select(jobs).where(jobs.c.status.not_in(_ENDED), free, jobs.c.id.not_in(besides))
        first = rows.order_by(jobs.c.expires_at, jobs.c.id).limit(1).with_for_update(skip_locked=True)

        def take(connection: Connection) -> Job | None:
            row = connection.execute(first).mappings().first()
            if row is None:
                return None
            values = {"holder": holder, "epoch": row["epoch"] + 1, "lease_until_s": now_s + lease_s}
            return _change(connection, job_of(dict(row)), values)

        return self._transact(take)

    def save(
        self,
        job_id: str,
        epoch: int,
        *,
        now_s: float,
        lease_s: float | None = None,
        status: Status | None = None,
        made: Sequence[FileRecord] = (),
        **fields: Any,
    ) -> Job:
        """Writes down how far a job is; returns it as it stands, since its owner may have cancelled it.

        Args:
            epoch: of the lease.
            lease_s: the lease ends so long from now; 0: now; None: when it would have.
            status: its new one, if it has one.
            made: its files, which are remembered in the same transaction.
            fields: of `Job`, but for those that are not its worker's to change.

        Raises:
            LeaseLostError: somebody else works on it, or it has ended; nothing was written.
            InvalidRequestError: the status does not follow the one that it has; nothing was written.
        """

        def write(connection: Connection) -> Job:
            job = _job(connection, job_id, for_update=True)
            if job.epoch != epoch or job.ended:
                raise LeaseLostError(f"{job_id} is {job.status} at epoch {job.epoch}, not {epoch}; leave it alone")
            values = dict(fields)
            if lease_s is not None:
                values["lease_until_s"] = now_s + lease_s
                values["holder"] = job.holder if lease_s else None
            if status is not None and status != job.status:
                values |= _moved(job, status, now_s)
            if made:
                connection.execute(insert(files), [columns_of(vars(file)) for file in made])
            return _change(connection, job, values)

        return self._transact(write)

    def expired_files(self, now_s: float) -> list[FileRecord]:
        """Forgets files that have expired and that no job reads any more; their bytes are then to be removed."""
        in_use = select(jobs.c.input_file_id).where(jobs.c.status.not_in(_ENDED))
        due = select(files).where(files.c.expires_at <= int(now_s), files.c.id.not_in(in_use)).limit(_SOME)
        due = due.with_for_update(skip_locked=True)

        def forget(connection: Connection) -> list[FileRecord]:
            found = [file_of(dict(row)) for row in connection.execute(due).mappings()]
            if found:
                connection.execute(delete(files).where(files.c.id.in_([file.id for file in found])))
            return found

        return self._transact(forget)

    def prune_jobs(self, before: float) -> int:
        """Forgets jobs that have ended and were made before that time, in seconds since 1970; how many."""
        old = select(jobs.c.id).where(jobs.c.status.in_(_ENDED), jobs.c.created_at < int(before)).limit(_SOME)
        return self._transact(lambda connection: connection.execute(delete(jobs).where(jobs.c.id.in_(old))).rowcount)

    def unknown(self, *, file_ids: Collection[str] = (), job_ids: Collection[str] = ()) -> set[str]:
        """Of these, those that are no file, or no job that has not ended."""
        known_files = select(files.c.id).where(files.c.id.in_(file_ids))
        known_jobs = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status.not_in(_ENDED))

        def look(connection: Connection) -> set[str]:
            known = {*connection.execute(known_files).scalars(), *connection.execute(known_jobs).scalars()}
            return {*file_ids, *job_ids} - known

        return self._read(look)

    def _page(
        self, table: Table, rows: Select[Any], owner: Account, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Any], bool]:
        key = tuple_(table.c.created_at, table.c.id)
        order = (table.c.created_at, table.c.id)

        def read(connection: Connection) -> list[Any]:
            wanted = rows
            if after is not None:
                mine = table.c.owner == owner_text(owner)
                last = connection.execute(select(*order).where(table.c.id == after, mine)).first()
                if last is None:
                    raise InvalidRequestError(f"after: there is no {after[:80]!r}; correct it", param="after")
                wanted = rows.where(key < tuple(last) if newest_first else key > tuple(last))
            ordered = wanted.order_by(*(column.desc() if newest_first else column.asc() for column in order))
            return list(connection.execute(ordered.limit(limit + 1)).mappings())

        found = self._read(read)
        return found[:limit], len(found) > limit

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect().execution_options(**{READS: True}) as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise unusable(_DATABASE, error) from error

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Does the work in one transaction; again from its start where it collided with another and was given up."""
        try:
            return transact(self._engine, work)
        except SQLAlchemyError as error:
            raise unusable(_DATABASE, error) from error


def _file(connection: Connection, owner: Account, file_id: str, *, keep: bool = False) -> FileRecord:
    """Args: keep: nobody else removes it, or has a job read it, before the transaction ends."""
    mine = select(files).where(files.c.id == file_id, files.c.owner == owner_text(owner))
    row = connection.execute(mine.with_for_update() if keep else mine).mappings().first()
    if row is None:
        raise NotFoundError(f"no file {file_id[:80]!r} is yours; GET /v1/files lists those that are")
    return file_of(dict(row))


def _job(connection: Connection, job_id: str, owner: Account | None = None, *, for_update: bool = False) -> Job:
    mine = select(jobs).where(jobs.c.id == job_id)
    if owner is not None:
        mine = mine.where(jobs.c.owner == owner_text(owner))
    row = connection.execute(mine.with_for_update() if for_update else mine).mappings().first()
    if row is None:
        raise NotFoundError(f"no batch {job_id[:80]!r} is yours; GET /v1/batches lists those that are")
    return job_of(dict(row))


def _readers(file_id: str) -> Select[tuple[str]]:
    return select(jobs.c.id).where(jobs.c.input_file_id == file_id, jobs.c.status.not_in(_ENDED)).limit(1)


def _change(connection: Connection, job: Job, values: Mapping[str, Any]) -> Job:
    if values:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(columns_of(values)))
    return _job(connection, job.id)


def _moved(job: Job, status: Status, now_s: float) -> dict[str, Any]:
    check_move(job.status, status)
    return {"status": status, STAMPS[status]: int(now_s)}
