"""Takes jobs that nobody works on, and works on a few of them at once."""

from __future__ import annotations

import asyncio
import logging
import time

from apportion.deployments.jobs.lease import LEASE_S
from apportion.deployments.jobs.run import JobRun, Workshop
from apportion.router.errors import ApportionError
from apportion.router.jobs.records import Job
from apportion.router.jobs.sweep import sweep

logger = logging.getLogger(__name__)

MOST_JOBS = 4  # at once; the others wait for one to end
LOOK_S = 1.0  # between two looks for jobs
SWEEP_S = 600.0  # between two looks for files that nobody needs any more
AGAIN_S = 5.0  # after a job that failed by a mistake of ours


class Runner:
    """Owns the runs of one process.

    Args:
        name: by which it leases jobs.
    """

    def __init__(self, shop: Workshop, name: str) -> None:
        self._shop = shop
        self._name = name
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._later_s: dict[str, float] = {}  # jobs that are left alone until then
        self._working = asyncio.create_task(self._work())
        self._sweeping = asyncio.create_task(self._sweep())

    def check_health(self) -> None:
        """Raises: whatever has ended the search for jobs."""
        for task in (self._working, self._sweeping):
            if task.done():
                task.result()

    async def close(self) -> None:
        """Lets other runners have the jobs."""
        tasks = [self._working, self._sweeping, *self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            while len(self._runs) < MOST_JOBS and (job := await self._lease()) is not None:
                self._runs[job.id] = asyncio.create_task(self._run(job))
            await asyncio.sleep(LOOK_S)

    async def _lease(self) -> Job | None:
        now_s = time.monotonic()
        self._later_s = {job: until_s for job, until_s in self._later_s.items() if until_s > now_s}
        besides = {*self._runs, *self._later_s}
        try:
            return await asyncio.to_thread(
                self._shop.store.lease, self._name, now_s=time.time(), lease_s=LEASE_S, besides=besides
            )
        except ApportionError as error:
            logger.warning("no job can be taken: %s", error.message)
            return None

    async def _run(self, job: Job) -> None:
        logger.info("%s is %s and goes on here, at epoch %d", job.id, job.status, job.epoch)
        try:
            await JobRun(self._shop, job).run()
        except Exception as error:
            # Its class only: what it says may quote a request.
            logger.error("working on %s failed: %s", job.id, type(error).__name__)
            self._later_s[job.id] = time.monotonic() + AGAIN_S
        finally:
            del self._runs[job.id]

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(sweep, self._shop.store, self._shop.blobs, time.time())
            except (ApportionError, OSError) as error:
                logger.warning("files that nobody needs could not be removed: %s", type(error).__name__)
            await asyncio.sleep(SWEEP_S)
