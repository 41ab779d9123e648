"""What nobody needs any more is removed: files that have expired, and what writers that were killed left behind."""

from __future__ import annotations

from apportion.router.jobs.blobs import Blobs
from apportion.router.jobs.store import JobStore

DAY_S = 86_400.0
ORPHAN_S = DAY_S  # what is younger may be about to be remembered
KEEP_JOBS_S = 400 * DAY_S


def sweep(store: JobStore, blobs: Blobs, now_s: float) -> int:
    """Removes expired files, and files and results that belong to nothing; forgets jobs of long ago.

    What a sweep does not come to, the next one does. Safe beside everything else, other sweeps included.

    Returns:
        How many files were removed.

    Raises:
        OSError: the files cannot be reached.
        LedgerError: the database cannot be used.
    """
    removed = 0
    while expired := store.expired_files(now_s):
        for file in expired:
            blobs.delete(file.path)
        removed += len(expired)
    store.prune_jobs(now_s - KEEP_JOBS_S)
    return removed + _sweep_orphans(store, blobs, now_s)


def _sweep_orphans(store: JobStore, blobs: Blobs, now_s: float) -> int:
    """Files that no row speaks of, drafts of writers that were killed, and results of jobs that have ended."""
    removed = 0
    for folder, kind in (("files", "file_ids"), ("jobs", "job_ids")):
        old = [blob.path for blob in blobs.list(folder) if blob.written_s < now_s - ORPHAN_S]
        named = {path: path.split("/")[1] for path in old}
        for some in _chunks(sorted(set(named.values()))):
            unknown = store.unknown(**{kind: some})
            for path in (path for path in old if named[path] in unknown):
                blobs.delete(path)
                removed += 1
    return removed


def _chunks(names: list[str], size: int = 500) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
