"""A job's lease: renewed as long as somebody works on the job, and with it what is told of how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from apportion.router.errors import ApportionError, LeaseLostError
from apportion.router.jobs.records import FileRecord, Job
from apportion.router.jobs.states import Status
from apportion.router.jobs.store import JobStore

logger = logging.getLogger(__name__)

LEASE_S = 8.0  # a runner that is killed is missed after so long
RENEW_S = 2.0
AGAIN_S = 0.5  # after a database that failed


class Lease:
    """One job, as long as nobody else has it.

    Args:
        progress: fields of the job that say how far it is.

    Attributes:
        job: as it stood when it was written down last.
        stop: set where its owner has cancelled it, or its time is up.
    """

    def __init__(self, store: JobStore, job: Job, progress: Callable[[], Mapping[str, Any]]) -> None:
        self._store = store
        self._progress = progress
        self.job = job
        self.stop = asyncio.Event()
        self._saving = asyncio.Lock()

    @property
    def time_s(self) -> float:
        """That is left of the job's window."""
        return self.job.expires_at - time.time()

    @property
    def expired(self) -> bool:
        return self.time_s <= 0

    async def save(
        self,
        status: Status | None = None,
        made: tuple[FileRecord, ...] = (),
        lease_s: float | None = None,
        **fields: Any,
    ) -> None:
        """Writes down how far the job is, and what is given; again until the database can be used.

        Args:
            status: its new one, if it has one.
            made: its files.
            lease_s: the lease ends so long from now; None: after the usual time.
            fields: of the job.

        Raises:
            LeaseLostError: somebody else works on the job, or it has ended.
            InvalidRequestError: the status does not follow the one that it has.
        """
        async with self._saving:
            while True:
                try:
                    self.job = await asyncio.to_thread(
                        self._store.save,
                        self.job.id,
                        self.job.epoch,
                        now_s=time.time(),
                        lease_s=LEASE_S if lease_s is None else lease_s,
                        status=status,
                        made=made,
                        **{**self._progress(), **fields},
                    )
                    break
                except ApportionError as error:
                    if error.status < 500 or isinstance(error, LeaseLostError):
                        raise
                    logger.warning("job %s: its store does not answer: %s", self.job.id, error.message)
                    await asyncio.sleep(AGAIN_S)
        if self.job.status is Status.cancelling or self.expired:
            self.stop.set()

    async def keep(self) -> None:
        """Renews the lease for ever.

        Raises:
            LeaseLostError: as above.
        """
        while True:
            await asyncio.sleep(RENEW_S if self.expired else min(RENEW_S, self.time_s))
            if not (self._saving.locked() or self.job.ended):
                await self.save()

    async def release(self) -> None:
        """Lets another runner have the job at once; one that cannot be told waits for the lease to end."""
        with contextlib.suppress(ApportionError, TimeoutError):
            async with asyncio.timeout(RENEW_S):
                await self.save(lease_s=0.0)
