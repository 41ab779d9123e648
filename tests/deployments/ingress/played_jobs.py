"""Files and batches in this process: a place for them, a worker that ends jobs at once, and an ingress before it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from apportion.router.jobs.blobs import open_blobs
from apportion.router.jobs.lines import LineRules, answered_line, check_lines, read_lines, request_of, unanswered_line
from apportion.router.jobs.records import FileRecord, path_of_file
from apportion.router.jobs.segments import Result, ResultIndex, SegmentWriter, Tokens, manifest_of, merge
from apportion.router.jobs.states import Status
from apportion.router.jobs.store import JobStore
from tests.deployments.local_router import keys_file

CHAT = "/v1/chat/completions"


async def engine(*_: Any) -> None:
    raise AssertionError("no batch asks an engine here")


class Place:
    """Where files and jobs lie, and a worker that ends jobs at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = open_blobs(str(folder))
        self.store = JobStore(f"sqlite:///{folder}/jobs.db")

    def work(self, until: Status = Status.completed) -> None:
        """Checks one job and answers all its lines but those that ask for trouble."""
        now_s = time.time()
        job = self.store.lease("worker", now_s=now_s, lease_s=60)
        assert job is not None
        path = path_of_file(job.input_file_id)
        with self.blobs.reading(path) as stream:
            found = check_lines(stream, LineRules(job.endpoint, 100, 10_000))
        if found.mistakes:
            self.store.save(job.id, job.epoch, now_s=now_s, status=Status.failed, errors=found.told())
            return
        if job.status is Status.validating:
            job = self.store.save(job.id, job.epoch, now_s=now_s, status=Status.in_progress, total=found.total)
        writer = SegmentWriter(self.blobs, job.id, job.epoch)
        with self.blobs.reading(path) as stream:
            for line in read_lines(stream, 10_000):
                request = request_of(line)
                ok = "trouble" not in request.body
                said = answered_line(job.id, request, 200 if ok else 400, "r", {"said": request.body["messages"]})
                if request.custom_id != "late":
                    writer.write([Result(line.row, ok, said, "small", 1500, Tokens(3, 0, 2, 0))])
        if until is Status.completed:
            self.store.save(job.id, job.epoch, now_s=now_s, status=Status.finalizing)
        segments = manifest_of(self.blobs, job.id)
        index = ResultIndex.of(self.blobs, segments, found.total)
        made = [
            FileRecord(f"file-{name}-{job.id}", job.owner, f"{job.id}_{name}.jsonl", "batch_output", 0, int(now_s))
            for name in ("output", "error")
        ]
        with self.blobs.reading(path) as stream:
            sizes = merge(
                self.blobs,
                segments,
                index,
                read_lines(stream, 10_000),
                output=made[0].path,
                errors=made[1].path,
                missing=lambda line: unanswered_line(job.id, request_of(line), f"batch_{until}", "too late"),
            )
        made = [
            FileRecord(**vars(file) | {"bytes": size})
            for file, size in zip(made, (sizes.output, sizes.errors), strict=True)
            if size
        ]
        names = {"output_file_id" if "output" in file.id else "error_file_id": file.id for file in made}
        totals = index.totals
        self.store.save(
            job.id,
            job.epoch,
            now_s=now_s,
            status=until,
            made=made,
            completed=totals.completed,
            failed=found.total - totals.completed,
            spent_nano=totals.cost_nano,
            tokens=totals.tokens,
            told={"planned_usd": 0.5},
            **names,
        )


def sections(place: Place, **bulk: Any) -> dict[str, Any]:
    keys = keys_file(place.folder.parent / "keys.yaml", {"name": "me"}, {"name": "you", "models": ["small"]})
    return {"bulk": {"storage": str(place.folder)} | bulk, "keys": keys}


def line(custom_id: str, **body: Any) -> bytes:
    messages = [{"role": "user", "content": f"hello {custom_id}"}]
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"messages": messages} | body}
    ).encode()
