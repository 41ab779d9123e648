"""A job's files: the requests that it reads, the results on their way, and what is made of them at its end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from apportion.deployments.config.bulk import BulkConfig
from apportion.deployments.jobs.input import InputFile
from apportion.router.jobs.blobs import Blobs
from apportion.router.jobs.lines import Checked, LineRules, RawLine, check_lines
from apportion.router.jobs.records import FileRecord, Job, path_of_file
from apportion.router.jobs.segments import ResultIndex, Segment, folder_of, manifest_of, merge

DAY_S = 86_400


@dataclass
class JobFiles:
    """Blocking; each call in a thread.

    Args:
        kept: results of earlier runners that count; what these write from now on does not.
    """

    blobs: Blobs
    config: BulkConfig
    job: Job
    kept: list[Segment] = field(default_factory=list)

    def check(self, wrong_model: Callable[[str], str | None]) -> Checked:
        """Reads the requests. Raises: OSError: the file cannot be read."""
        rules = LineRules(self.job.endpoint, self.config.max_lines, self.config.max_line_bytes, wrong_model)
        with self.blobs.reading(path_of_file(self.job.input_file_id)) as stream:
            return check_lines(stream, rules)

    def take_over(self) -> dict[str, object]:
        """Settles which results of earlier runners count.

        Of a runner that lost the job earlier only those do that the next one has found.

        Returns:
            What the next runner has to know.
        """
        known = [Segment(*one) for one in self.job.plan.get("manifest", ())]
        since = int(self.job.plan.get("epoch", 0))
        found = manifest_of(self.blobs, self.job.id)
        self.kept = known + [one for one in found if since <= _epoch(one) < self.job.epoch]
        return {"manifest": self.kept, "epoch": self.job.epoch}

    def index(self, total: int) -> ResultIndex:
        """Of all results so far."""
        return ResultIndex.of(self.blobs, self._segments(), total)

    def put_together(self, input_file: InputFile, missing: Callable[[RawLine], bytes]) -> tuple[FileRecord | None, ...]:
        """Makes the output and the error file, in the order of the requests; None: there is nothing to put into it."""
        segments = self._segments()
        index = ResultIndex.of(self.blobs, segments, len(input_file))
        names = [f"file-{secrets.token_hex(16)}" for _ in range(2)]
        output, errors = (path_of_file(name) for name in names)
        merged = merge(self.blobs, segments, index, input_file.lines(), output=output, errors=errors, missing=missing)
        sizes = (merged.output, merged.errors)
        return tuple(
            self._record(name, kind, size) if size else None
            for name, kind, size in zip(names, ("output", "error"), sizes, strict=True)
        )

    def forget(self) -> None:
        """Removes what the results were made of."""
        self.blobs.delete(folder_of(self.job.id))

    def _segments(self) -> list[Segment]:
        own = [one for one in manifest_of(self.blobs, self.job.id) if _epoch(one) == self.job.epoch]
        return self.kept + own

    def _record(self, name: str, kind: str, size: int) -> FileRecord:
        now_s = int(time.time())
        lives_s = self.job.output_expires_s or int(self.config.file_days * DAY_S)
        filename = f"{self.job.id}_{kind}.jsonl"
        return FileRecord(name, self.job.owner, filename, "batch_output", size, now_s, now_s + lives_s)


def _epoch(segment: Segment) -> int:
    return int(segment.path.rsplit("/", 1)[-1].split("-")[0])
