"""Results of slow steps on disk, found again by what went into them: data, settings and the code that made them."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT


@dataclass(frozen=True)
class Cache:
    """A folder of pickles. It only ever holds what this code wrote there; delete it at will."""

    folder: Path

    def get(self, parts: tuple[Any, ...], make: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds that it took to make, and the value: from disk if the same parts made it before."""
        file = self.folder / f"{digest(parts)}.pickle"
        if file.exists():
            with file.open("rb") as stream:
                found: tuple[float, Any] = pickle.load(stream)
            return found
        started = time.perf_counter()
        made = make()
        entry = (time.perf_counter() - started, made)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, so that a run that is cut off leaves no half entry.
        part = file.with_suffix(f".{os.getpid()}")
        with part.open("wb") as stream:
            pickle.dump(entry, stream)
        part.replace(file)
        return entry


def digest(parts: tuple[Any, ...]) -> str:
    """A short hash of values whose `repr` says all about them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@lru_cache
def files_hash(*paths: Path) -> str:
    """Hash of the files, and of all files in the folders, by name and content."""
    found = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                found.update(str(file.relative_to(path if path.is_dir() else path.parent)).encode())
                found.update(file.read_bytes())
    return found.hexdigest()[:24]


def code_hash(*names: str) -> str:
    """Hash of source files or folders, named from the root of the project."""
    return files_hash(*(ROOT / name for name in names))
