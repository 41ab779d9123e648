"""Where files lie: a folder, or an object store (`s3://`, `gs://`) by pyarrow.

Paths are relative, with slashes. What is written is there when it is whole, and not before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from apportion.router.errors import ConfigurationError

DRAFT = ".draft-"


@dataclass(frozen=True)
class Blob:
    """A file: its path, bytes, and when it was written, in seconds since 1970."""

    path: str
    size: int
    written_s: float


class Blobs(Protocol):
    """Files by their paths; all calls block, and raise OSError where the store fails."""

    @property
    def appends(self) -> bool:
        """Whether files can be added to; objects are written whole."""

    def writing(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Writes a file, which is there, on disk, when the context ends well; nothing is where it does not."""

    def reading(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Opens a file, at any place of which one may read. Raises: FileNotFoundError: there is none."""

    def append(self, path: str, data: bytes) -> None:
        """Adds to a file, or begins it, and waits for the disk; where nothing can be added, it has to be a new one."""

    def list(self, folder: str) -> list[Blob]:
        """All files below a folder by their paths; none where it is not there."""

    def delete(self, path: str) -> None:
        """Removes a file, or a folder with all in it; what is not there stays so."""


def open_blobs(uri: str) -> Blobs:
    """The store at a folder or URI; may ask the network.

    Raises:
        ConfigurationError: there is no such kind of store, or it cannot be reached.
    """
    path = uri.removeprefix("file://")
    if "://" not in path:
        folder = Path(path).expanduser().absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"bulk.storage {folder}: {error.strerror}; name another folder") from error
        return FolderBlobs(folder)
    import pyarrow as pa
    import pyarrow.fs

    try:
        files, root = pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigurationError(f"bulk.storage {uri}: {error}; correct the URI, or what it needs") from error
    return ObjectBlobs(files, root.rstrip("/"))


@dataclass(frozen=True)
class FolderBlobs:
    """Files in a folder."""

    root: Path
    appends = True

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        place = self._made(path)
        draft = place.with_name(f"{DRAFT}{secrets.token_hex(8)}")
        try:
            with draft.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(place)
            _sync_folder(place.parent)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with (self.root / path).open("rb") as stream:
            yield stream

    def append(self, path: str, data: bytes) -> None:
        place = self._made(path)
        begins = not place.exists()
        with place.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if begins:
            _sync_folder(place.parent)

    def list(self, folder: str) -> list[Blob]:
        found = []
        for place in (self.root / folder).rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                status = place.stat()
                if place.is_file():
                    found.append(Blob(str(place.relative_to(self.root)), status.st_size, status.st_mtime))
        return sorted(found, key=lambda blob: blob.path)

    def delete(self, path: str) -> None:
        place = self.root / path
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)

    def _made(self, path: str) -> Path:
        place = self.root / path
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place


def _sync_folder(folder: Path) -> None:
    """A new name is on disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class ObjectBlobs:
    """Objects below `root` of one of pyarrow's file systems."""

    files: Any
    root: str
    appends = False

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        # Under its own name an object that is broken off would be there: closing a stream completes it.
        draft = f"{path}{DRAFT}{secrets.token_hex(8)}"
        stream = self.files.open_output_stream(self._at(draft))
        try:
            yield cast(BinaryIO, stream)
            stream.close()
            self.files.move(self._at(draft), self._at(path))
        except BaseException:
            with contextlib.suppress(OSError):
                stream.close()
            self.delete(draft)
            raise

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with self.files.open_input_file(self._at(path)) as stream:
            yield cast(BinaryIO, stream)

    def append(self, path: str, data: bytes) -> None:
        with self.files.open_output_stream(self._at(path)) as stream:
            stream.write(data)

    def list(self, folder: str) -> list[Blob]:
        import pyarrow.fs

        selector = pyarrow.fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True)
        found = [info for info in self.files.get_file_info(selector) if info.is_file]
        blobs = [Blob(info.path.removeprefix(f"{self.root}/"), info.size, info.mtime_ns / 1e9) for info in found]
        return sorted(blobs, key=lambda blob: blob.path)

    def delete(self, path: str) -> None:
        import pyarrow.fs

        kind = self.files.get_file_info(self._at(path)).type
        with contextlib.suppress(FileNotFoundError):
            if kind == pyarrow.fs.FileType.Directory:
                self.files.delete_dir(self._at(path))
            elif kind == pyarrow.fs.FileType.File:
                self.files.delete_file(self._at(path))

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"
