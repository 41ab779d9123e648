"""What tests of jobs keep files in."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs

from apportion.router.jobs.blobs import Blobs, FolderBlobs, ObjectBlobs


def blobs_of(kind: str, folder: Path) -> Blobs:
    """A folder, or the same folder as an object store is used."""
    return FolderBlobs(folder) if kind == "folder" else ObjectBlobs(pyarrow.fs.LocalFileSystem(), str(folder))
