import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from apportion.router.budget import Account
from apportion.router.errors import (
    InvalidRequestError,
    LeaseLostError,
    NotFoundError,
    PayloadTooLargeError,
    RateLimitError,
)
from apportion.router.jobs.blobs import FolderBlobs
from apportion.router.jobs.records import FileRecord, Job
from apportion.router.jobs.schema import metadata
from apportion.router.jobs.segments import Tokens
from apportion.router.jobs.states import FOLLOWS, STAMPS, TERMINAL, Status
from apportion.router.jobs.store import JobStore
from apportion.router.jobs.sweep import ORPHAN_S, sweep

ME, OTHER = Account("me"), Account("me", "tenant")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/b.db" if in_file else request.getfixturevalue("server")
    opened = JobStore(url)
    yield opened
    opened.close()
    if not in_file:
        engine = create_engine(url)
        metadata.drop_all(engine)
        engine.dispose()


def file(number: int = 1, **fields: Any) -> FileRecord:
    values = {"owner": ME, "filename": "a.jsonl", "purpose": "batch", "bytes": 10, "created_at": 100 + number}
    return FileRecord(f"file-{number}", **(values | fields))


def job(number: int = 1, **fields: Any) -> Job:
    values = {"owner": ME, "endpoint": "/v1/chat/completions", "input_file_id": "file-1", "completion_window": "1h"}
    values |= {"expires_at": 1000 + number, "stamps": {"created_at": 100}}
    return Job(f"batch_{number}", **(values | fields))


def test_files_and_jobs_come_back_as_they_were(store: JobStore) -> None:
    whole = job(metadata={"a": "ü"}, routing={"budget_usd": 1.5}, caller={"models": ["wren"]}, output_expires_s=3600)
    store.add_file(file(expires_at=500))
    store.add_job(whole)

    assert store.file(ME, "file-1") == file(expires_at=500)
    assert store.job(ME, "batch_1") == whole
    assert store.jobs(ME, limit=1) == ([whole], False)


@pytest.mark.parametrize("other", [OTHER, Account("you"), Account(), Account(None, "tenant")])
def test_what_is_somebody_elses_is_not_there(store: JobStore, other: Account) -> None:
    store.add_file(file())
    store.add_job(job())

    for look in (store.file, store.delete_file):
        with pytest.raises(NotFoundError):
            look(other, "file-1")
    with pytest.raises(NotFoundError):
        store.job(other, "batch_1")
    with pytest.raises(NotFoundError):
        store.cancel(other, "batch_1", 200.0)
    with pytest.raises(InvalidRequestError, match="no file"):
        store.add_job(job(2, owner=other))
    with pytest.raises(InvalidRequestError, match="after"):
        store.files(other, limit=5, after="file-1")
    assert store.files(other, limit=5) == store.jobs(other, limit=5) == ([], False)


def test_pages_hold_everything_once_whatever_the_order(store: JobStore) -> None:
    for number in range(1, 8):
        store.add_file(file(number, created_at=100 + number // 3, purpose="batch" if number % 2 else "batch_output"))
        store.add_job(job(number))
    for newest_first in (True, False):
        names: list[str] = []
        more = True
        while more:
            page, more = store.files(ME, limit=3, after=names[-1] if names else None, newest_first=newest_first)
            names += [one.id for one in page]
        assert names == sorted(names, reverse=newest_first)
        assert len(names) == 7
    assert [one.id for one in store.files(ME, limit=9, purpose="batch_output")[0]] == ["file-6", "file-4", "file-2"]
    jobs, more = store.jobs(ME, limit=7)
    assert (len(jobs), more) == (7, False)
    assert [one.id for one in store.jobs(ME, limit=2, after="batch_4")[0]] == ["batch_3", "batch_2"]


def test_an_owner_has_room_for_so_much(store: JobStore) -> None:
    store.add_file(file(1), most_bytes=25)
    store.add_file(file(2), most_bytes=25)
    with pytest.raises(PayloadTooLargeError):
        store.add_file(file(3), most_bytes=25)
    store.add_file(file(4, owner=OTHER), most_bytes=25)
    store.add_job(job(1), most_open=1)
    with pytest.raises(RateLimitError):
        store.add_job(job(2), most_open=1)
    store.delete_file(ME, "file-2")
    store.add_file(file(3), most_bytes=25)


def test_only_input_files_are_batches(store: JobStore) -> None:
    store.add_file(file(purpose="batch_output"))

    with pytest.raises(InvalidRequestError, match="purpose"):
        store.add_job(job())


def test_a_file_that_is_read_stays(store: JobStore) -> None:
    store.add_file(file(expires_at=150))
    store.add_job(job())
    with pytest.raises(InvalidRequestError, match="cancel that first"):
        store.delete_file(ME, "file-1")
    assert store.expired_files(200.0) == []

    leased = store.lease("a", now_s=200.0, lease_s=10.0)
    assert leased is not None
    store.save("batch_1", leased.epoch, now_s=201.0, status=Status.failed)

    assert [one.id for one in store.expired_files(200.0)] == ["file-1"]
    with pytest.raises(NotFoundError):
        store.file(ME, "file-1")


def test_a_job_has_one_worker_and_the_later_one_wins(store: JobStore) -> None:
    store.add_file(file())
    store.add_job(job(2))
    store.add_job(job(1))
    first = store.lease("a", now_s=200.0, lease_s=10.0)
    assert first is not None
    assert (first.id, first.holder, first.epoch) == ("batch_1", "a", 1)  # the more urgent one
    second = store.lease("b", now_s=201.0, lease_s=10.0)
    assert second is not None
    assert second.id == "batch_2"
    assert store.lease("c", now_s=209.0, lease_s=10.0) is None
    store.save(first.id, first.epoch, now_s=209.0, lease_s=10.0)  # renews it
    store.save(second.id, second.epoch, now_s=209.0, lease_s=0.0)  # gives it up

    taken = [store.lease("c", now_s=215.0, lease_s=10.0) for _ in range(2)]

    assert [one and (one.id, one.epoch) for one in taken] == [("batch_2", 2), None]
    overdue = store.lease("c", now_s=220.0, lease_s=10.0)
    assert overdue is not None
    with pytest.raises(LeaseLostError):
        store.save(first.id, first.epoch, now_s=220.0, completed=5)
    assert store.job(ME, first.id).completed == 0
    assert store.save(first.id, overdue.epoch, now_s=220.0, completed=5).completed == 5


def test_of_many_that_want_a_job_one_gets_it(store: JobStore) -> None:
    store.add_file(file())
    store.add_job(job())
    start, got = threading.Barrier(8), []

    def want(number: int) -> None:
        start.wait()
        got.append(store.lease(str(number), now_s=200.0, lease_s=10.0))

    threads = [threading.Thread(target=want, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(one is not None for one in got) == 1
    assert store.job(ME, "batch_1").epoch == 1


def test_a_job_ends_with_its_files_in_one_step_and_stays_so(store: JobStore) -> None:
    store.add_file(file())
    store.add_job(job())
    leased = store.lease("a", now_s=200.0, lease_s=100.0)
    assert leased is not None
    store.save("batch_1", 1, now_s=210.0, status=Status.in_progress, total=3, told={"planned_usd": 2.0})
    store.save("batch_1", 1, now_s=220.0, status=Status.finalizing)
    made = [file(2, purpose="batch_output"), file(1)]
    with pytest.raises(Exception, match="does not answer"):  # one of them is there already
        store.save("batch_1", 1, now_s=230.0, status=Status.completed, made=made, output_file_id="file-2")
    assert store.job(ME, "batch_1").status is Status.finalizing

    done = store.save(
        "batch_1",
        1,
        now_s=230.9,
        status=Status.completed,
        made=made[:1],
        output_file_id="file-2",
        completed=3,
        tokens=Tokens(1, 2, 3, 4),
    )

    assert dict(done.stamps) == {
        "created_at": 100,
        "in_progress_at": 210,
        "finalizing_at": 220,
        "completed_at": 230,
    }
    assert (done.tokens, done.told, done.total) == (Tokens(1, 2, 3, 4), {"planned_usd": 2.0}, 3)
    assert store.file(ME, "file-2") == made[0]
    for late in (Status.failed, Status.cancelled, None):
        with pytest.raises(LeaseLostError):
            store.save("batch_1", 1, now_s=240.0, status=late)
    with pytest.raises(InvalidRequestError, match="is completed cannot be cancelled"):
        store.cancel(ME, "batch_1", 240.0)
    assert store.job(ME, "batch_1") == done
    assert store.lease("b", now_s=1e6, lease_s=1.0) is None


def test_a_cancel_is_seen_by_the_worker_and_holds_once(store: JobStore) -> None:
    store.add_file(file())
    store.add_job(job())
    store.lease("a", now_s=200.0, lease_s=100.0)

    assert store.cancel(ME, "batch_1", 205.0) == store.cancel(ME, "batch_1", 207.0)
    seen = store.save("batch_1", 1, now_s=208.0, completed=2)

    assert (seen.status, seen.stamps["cancelling_at"]) == (Status.cancelling, 205)
    with pytest.raises(InvalidRequestError, match="cannot become finalizing"):
        store.save("batch_1", 1, now_s=208.0, status=Status.finalizing)
    assert store.save("batch_1", 1, now_s=210.0, status=Status.cancelled).stamps["cancelled_at"] == 210


def test_every_state_leads_to_an_end_and_has_its_stamp() -> None:
    assert set(STAMPS) == set(FOLLOWS) == set(Status)
    assert {Status.completed, Status.failed, Status.expired, Status.cancelled} == TERMINAL
    for status in Status:
        reached = {status}
        for _ in Status:
            reached |= {then for one in reached for then in FOLLOWS[one]}
        assert reached & TERMINAL


def test_a_sweep_removes_what_nobody_needs_and_nothing_else(tmp_path: Path) -> None:
    store, blobs = JobStore(f"sqlite:///{tmp_path}/b.db"), FolderBlobs(tmp_path)
    for number, expires_at in ((1, 150), (2, 1_000_000_000), (3, None)):
        store.add_file(file(number, expires_at=expires_at))
    store.add_job(job(1, input_file_id="file-3"))
    for path in ("files/file-1", "files/file-2", "files/file-3", "files/orphan", "jobs/batch_1/1", "jobs/batch_0/1"):
        blobs.append(path, b"x")
    now_s = blobs.list("files")[0].written_s

    assert sweep(store, blobs, 149.0) == 0
    assert sweep(store, blobs, now_s) == 2
    left = {"files/file-3", "files/orphan", "jobs/batch_1/1", "jobs/batch_0/1"}
    assert {blob.path for folder in ("files", "jobs") for blob in blobs.list(folder)} == left

    assert sweep(store, blobs, now_s + ORPHAN_S + 1) == 2

    assert [blob.path for blob in blobs.list("files")] == ["files/file-3"]
    assert [blob.path for blob in blobs.list("jobs")] == ["jobs/batch_1/1"]
    store.close()


def test_a_file_is_deleted_or_read_by_a_job_and_never_both(store: JobStore) -> None:
    for number in range(10):
        store.add_file(file(number))
        start, done = threading.Barrier(2), []

        def attempt(work: Callable[[], object], start: threading.Barrier = start, done: list[object] = done) -> None:
            start.wait()
            try:
                done.append(work())
            except InvalidRequestError as error:
                done.append(error)

        works = (
            partial(store.delete_file, ME, f"file-{number}"),
            partial(store.add_job, job(number, input_file_id=f"file-{number}")),
        )
        threads = [threading.Thread(target=attempt, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sum(isinstance(one, InvalidRequestError) for one in done) == 1
