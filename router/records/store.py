"""Records on disk: parquet segments that are only ever added, a folder a day, in a folder or an object store.

URI/requests/2026-11-28/142501-9f86d081884c7d65.parquet
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from apportion.router.errors import ConfigurationError
from apportion.router.records.schema import Kind

SECRET_FILE = "secret"
SECRET_BYTES = 32
_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Store:
    """Segments below `root` of a file system; where they are local, whoever writes makes the folders."""

    files: Any
    root: str

    @classmethod
    def open(cls, uri: str) -> Store:
        """The store at a folder or URI; may ask the network.

        Raises:
            ConfigurationError: there is no such kind of store, or it cannot be reached.
        """
        place = uri if "://" in uri else str(Path(uri).expanduser().absolute())
        try:
            files, root = pyarrow.fs.FileSystem.from_uri(place)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigurationError(f"records at {uri}: {error}; correct the URI, or what it needs") from error
        return cls(files, root)

    @property
    def _local(self) -> bool:
        return isinstance(self.files, pyarrow.fs.LocalFileSystem)

    def append(self, kind: Kind, table: pa.Table, now: datetime) -> None:
        """Writes one segment: all of it is there, or nothing.

        Raises:
            OSError: it cannot be written.
        """
        folder = f"{self.root}/{kind.name}/{now:%Y-%m-%d}"
        name = f"{now:%H%M%S}-{secrets.token_hex(8)}{_SUFFIX}"
        if not self._local:  # an object is there when it is complete
            pq.write_table(table, f"{folder}/{name}", filesystem=self.files, compression="zstd")
            return
        self.files.create_dir(folder)
        pq.write_table(table, f"{folder}/.{name}", filesystem=self.files, compression="zstd")
        self.files.move(f"{folder}/.{name}", f"{folder}/{name}")

    def read(self, kind: Kind, since: date = date.min, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of the segments written on that day (UTC) or later.

        Args:
            columns: to read; None: all.

        Raises:
            OSError, pyarrow.ArrowException: a segment cannot be read.
        """
        days = [path for day, path in self._days(kind) if day >= since]
        paths = [path for day in days for path in self._segments(day)]
        if not paths:
            return kind.schema.empty_table().select(list(columns or kind.schema.names))
        found = pyarrow.dataset.dataset(paths, schema=kind.schema, format="parquet", filesystem=self.files)
        return found.to_table(columns=None if columns is None else list(columns))

    def prune(self, kind: Kind, before: date) -> int:
        """Removes the days before that one (UTC); returns how many they were."""
        old = [path for day, path in self._days(kind) if day < before]
        for path in old:
            self.files.delete_dir(path)
        return len(old)

    def secret(self) -> bytes:
        """What names of answers are signed with: made once, and the same for all who use this store.

        Raises:
            OSError: it can be neither read nor made.
        """
        path = f"{self.root}/{SECRET_FILE}"
        if self._local:
            self.files.create_dir(self.root)
            with contextlib.suppress(FileExistsError):
                _make_secret(Path(path))
        elif self.files.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            with self.files.open_output_stream(path) as stream:
                stream.write(secrets.token_bytes(SECRET_BYTES))
        with self.files.open_input_stream(path) as stream:
            found: bytes = stream.read()
        if len(found) != SECRET_BYTES:
            raise OSError(f"{path} holds {len(found)} bytes instead of {SECRET_BYTES}")
        return found

    def _days(self, kind: Kind) -> list[tuple[date, str]]:
        found = []
        for info in self._below(f"{self.root}/{kind.name}"):
            with contextlib.suppress(ValueError):
                found.append((date.fromisoformat(info.base_name), info.path))
        return sorted(found)

    def _segments(self, day: str) -> list[str]:
        names = self._below(day)
        return sorted(info.path for info in names if info.path.endswith(_SUFFIX) and not info.base_name.startswith("."))

    def _below(self, folder: str) -> list[Any]:
        found: list[Any] = self.files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        return found


def _make_secret(path: Path) -> None:
    """Raises: FileExistsError: there is one; it stays."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    draft.touch(0o600)
    draft.write_bytes(secrets.token_bytes(SECRET_BYTES))
    try:
        path.hardlink_to(draft)  # whole, and only where there is none
    finally:
        draft.unlink()
