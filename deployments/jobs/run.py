"""One job from its lease to its end: checked, forecast, planned, sent, and its results put into files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.bulk.bodies import wrong_model
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.openai import ParsedRequest
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.jobs.callers import JobCallers
from apportion.deployments.jobs.cascading import Cascading
from apportion.deployments.jobs.desk import RouterDesk
from apportion.deployments.jobs.expectations import Chunks, Expected, Forecasting, all_expected
from apportion.deployments.jobs.files import JobFiles
from apportion.deployments.jobs.input import InputFile, local_copy
from apportion.deployments.jobs.keeping import Keeper
from apportion.deployments.jobs.lease import Lease
from apportion.deployments.jobs.planning import Planner, Wishes, failure_of
from apportion.deployments.jobs.progress import Progress
from apportion.deployments.jobs.reading import RowReader
from apportion.deployments.jobs.rows import Forecasts, Rows, refusal, result_of
from apportion.deployments.jobs.sending import Sender
from apportion.deployments.jobs.steering import Steering
from apportion.deployments.wire.bulk import JobTold
from apportion.router.cascade.pair import Pair
from apportion.router.errors import ApportionError, LeaseLostError
from apportion.router.jobs.backlog import Backlog
from apportion.router.jobs.blobs import Blobs
from apportion.router.jobs.lines import RawLine, request_of, unanswered_line
from apportion.router.jobs.records import Job, path_of_file
from apportion.router.jobs.segments import ResultIndex, SegmentWriter
from apportion.router.jobs.states import Status
from apportion.router.jobs.store import JobStore

logger = logging.getLogger(__name__)

SLOTS_S = 60.0  # for engines to be there, before a job is planned without knowing what they can do
SETTLED_S = 5.0  # for the ledger to hear of the last rows' ends


@dataclass(frozen=True)
class Workshop:
    """What all jobs of a runner share.

    Args:
        pairs: models of which the second may be asked where the first one's answer is not sure enough.
    """

    config: ServiceConfig
    store: JobStore
    blobs: Blobs
    dispatcher: Dispatcher
    forecasting: Forecasting
    forecasts: Forecasts
    rules: Rules
    callers: JobCallers
    desk: RouterDesk
    ready: Callable[[], Awaitable[None]]
    pairs: tuple[Pair, ...]


class JobRun:
    """A job that is leased.

    Args:
        job: as the lease has it.
    """

    def __init__(self, shop: Workshop, job: Job) -> None:
        if shop.config.bulk is None:
            raise ValueError("jobs need a `bulk` section")
        self._shop = shop
        self._bulk = shop.config.bulk
        self._models = shop.config.names
        self._progress = Progress(Wishes.of(job.routing))
        self._lease = Lease(shop.store, job, lambda: self._progress.fields(self._models))
        self._files = JobFiles(shop.blobs, self._bulk, job)
        self._caller = shop.callers.of(job, self._progress.wishes.budget_nano)
        self._reader = RowReader(job.routing, shop.rules, self._caller.asks)
        self._sender: Sender | None = None

    @property
    def id(self) -> str:
        return self._lease.job.id

    async def run(self) -> None:
        """Works until the job has ended, or somebody else has it; when cancelled, lets another runner have it."""
        self._shop.desk.jobs[self.id] = self._told
        work, keep = asyncio.create_task(self._work()), asyncio.create_task(self._lease.keep())
        try:
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, keep):
                if task.done():
                    task.result()
        except LeaseLostError as error:
            logger.warning("%s goes on elsewhere: %s", self.id, error.message)
        finally:
            await _end(work, keep)
            self._shop.desk.jobs.pop(self.id, None)
            if not self._lease.job.ended:
                await self._lease.release()

    async def _work(self) -> None:
        await self._lease.save(plan=await asyncio.to_thread(self._files.take_over))
        if self._lease.job.status is Status.validating and not await self._valid():
            return
        async with self._input() as rows:
            index = await asyncio.to_thread(self._files.index, len(rows))
            self._progress.totals = index.totals
            keeper = Keeper(SegmentWriter(self._shop.blobs, self.id, self._lease.job.epoch), index.totals)
            if not index.done.all() and not self._lease.stop.is_set():
                await self._answer(rows, index, keeper)
            if not self._lease.job.ended:
                await keeper.drain()
                await self._finish(rows)

    async def _valid(self) -> bool:
        """Checks all lines; where any is wrong the job fails."""
        try:
            wrong = wrong_model(self._shop.rules, self._caller.granted)
            checked = await asyncio.to_thread(self._files.check, wrong)
        except FileNotFoundError:
            missing = {"code": "file_not_found", "message": "the input file is gone; upload it again", "line": None}
            await self._lease.save(Status.failed, errors=[missing | {"param": "input_file_id"}])
            return False
        if checked.wrong:
            await self._lease.save(Status.failed, errors=checked.told())
            return False
        await self._lease.save(total=checked.total)
        return True

    @contextlib.asynccontextmanager
    async def _input(self) -> AsyncIterator[InputFile]:
        with contextlib.ExitStack() as stack:
            copy = local_copy(self._shop.blobs, path_of_file(self._lease.job.input_file_id))
            stream = await asyncio.to_thread(stack.enter_context, copy)
            yield await asyncio.to_thread(InputFile, stream)

    async def _answer(self, lines: InputFile, index: ResultIndex, keeper: Keeper) -> None:
        """Forecasts, plans and sends what has no result yet."""
        await self._shop.ready()
        expected = await self._expected(lines, index, keeper)
        if expected is None:
            return
        pairs = self._shop.pairs if self._progress.wishes.cascade else ()
        cascading = Cascading(expected, self._models, index.held, pairs)
        planner = Planner(expected, self._models, cascading)
        rows = Rows(
            self.id,
            self._models,
            lines,
            self._reader,
            expected,
            planner,
            keeper,
            self._shop.dispatcher,
            self._shop.forecasts,
            self._shop.desk,
            cascading,
            self._bulk.attempts,
        )
        backlog = Backlog(expected.beginnings, len(self._models))
        backlog.add(~index.done & expected.may.any(axis=1))
        longest_s = self._shop.config.dispatch.request_timeout_s
        sender = self._sender = Sender(backlog, len(self._models), rows, time.monotonic, longest_s)
        job = self._lease.job
        window_s = float(job.expires_at - job.created_at)
        steering = Steering(
            self.id, planner, sender, self._shop.desk, self._progress, lambda: self._lease.time_s, window_s
        )
        await self._engines_are_there()
        if not self._lease.stop.is_set() and await self._planned(steering, backlog):
            await self._send(sender, steering)

    async def _expected(self, lines: InputFile, index: ResultIndex, keeper: Keeper) -> Expected | None:
        has_answer = index.done | index.held.rows

        def read(row: int) -> ParsedRequest:
            return self._reader.read(lines.request(row))

        async def refused(row: int, error: ApportionError) -> None:
            if not has_answer[row]:
                await keeper.keep(result_of(self.id, lines.request(row), refusal(error)))

        chunks = Chunks(self._shop.blobs, self.id, self._models)
        return await all_expected(len(lines), chunks, read, self._shop.forecasting, refused, self._lease.stop)

    async def _engines_are_there(self) -> None:
        """Waits for the first of them, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SLOTS_S):
                while not any((await self._shop.desk.known()).slots.values()) and not self._lease.stop.is_set():
                    await self._shop.desk.next()

    async def _planned(self, steering: Steering, backlog: Backlog) -> bool:
        """Plans all rows at first; where that cannot be, the job fails before any row is sent."""
        first = self._lease.job.status is Status.validating
        wishes = self._progress.wishes
        failure = await steering.plan(backlog.waiting, best_effort=wishes.best_effort or not first)
        if failure is not None:
            await self._lease.save(Status.failed, errors=[failure_of(failure)])
            return False
        if first:
            await self._lease.save(Status.in_progress)
        return True

    async def _send(self, sender: Sender, steering: Steering) -> None:
        backlog, stop = sender.backlog, self._lease.stop
        steers = asyncio.create_task(steering.steer())
        try:
            while len(backlog) and not stop.is_set():
                await sender.run(stop)
                if stop.is_set() or not len(backlog):
                    return
                # Rows without a place get what the others have left; a first answer that none is left for stays.
                await steering.plan(backlog.waiting, best_effort=True)
                for row in backlog.unplaced.tolist():
                    backlog.drop(row)
        finally:
            await _end(steers)

    async def _finish(self, lines: InputFile) -> None:
        """Puts the results into files; what was not answered says why."""
        await self._settled()
        done = self._progress.totals.completed + self._progress.totals.failed == len(lines)
        if not done and self._lease.job.status is not Status.cancelling and self._lease.expired:
            status = Status.expired
        else:
            status = await self._finalizing()
        files = await asyncio.to_thread(self._files.put_together, lines, self._unsent(status))
        output, errors = files
        await self._lease.save(
            status,
            made=tuple(file for file in files if file is not None),
            failed=len(lines) - self._progress.totals.completed,
            output_file_id=None if output is None else output.id,
            error_file_id=None if errors is None else errors.id,
        )
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._files.forget)

    async def _finalizing(self) -> Status:
        """What the job is to be once its files are there; its owner may still have cancelled it."""
        for status in (Status.in_progress, Status.finalizing):
            if self._lease.job.status is Status.cancelling:
                return Status.cancelled
            if self._lease.job.status is Status.validating or status is Status.finalizing:
                await self._lease.save(status)
        return Status.completed

    async def _settled(self) -> None:
        """Waits until the ledger has all that the rows have cost, or as long as that may be hoped for."""
        desk, progress = self._shop.desk, self._progress
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S):
                while True:
                    await desk.next()
                    spent_nano, reserved_nano = (await desk.known()).spent_nano.get(self.id, (0, 0))
                    progress.spent_nano = max(progress.spent_nano, spent_nano)
                    if not reserved_nano:
                        return

    def _unsent(self, status: Status) -> Callable[[RawLine], bytes]:
        """Makes the line of a request that was not answered."""
        code, why = "batch_expired", "the batch's window ended before this request was answered"
        if status is Status.cancelled:
            code, why = "batch_cancelled", "the batch was cancelled before this request was answered"
        elif status is Status.completed and self._progress.wishes.budget_usd is not None:
            code, why = "budget_exceeded", "the batch's budget had no room for this request; raise budget_usd"

        def line(raw: RawLine) -> bytes:
            return unanswered_line(self.id, request_of(raw), code, why)

        return line

    def _told(self) -> tuple[JobTold, float]:
        job, progress, wishes = self._lease.job, self._progress, self._progress.wishes
        flying = 0 if self._sender is None else len(self._sender.flying)
        told = JobTold(
            job.id,
            job.status.value,
            job.total,
            progress.totals.completed,
            progress.totals.failed,
            flying,
            wishes.budget_usd,
            progress.planned_usd,
            progress.left_s,
            self._lease.time_s,
            progress.totals.first_answers,
            progress.totals.asked_on,
        )
        return told, progress.haste


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
