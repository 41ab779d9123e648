"""Vectors of texts that were encoded before, kept on disk by the texts' content.

Commands that look at one table after another (`train`, `evaluate`, `calibrate`) spend most of their time on encoding
the same prompts. Kept are hashes of texts and their vectors, no texts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Done = TypeVar("Done")
Vectors = NDArray[np.float32]
FOLDER_VARIABLE = "APPORTION_CACHE"
MOST_BYTES = 1 << 30
_KEPT_SHARE = 0.8  # of the bound, once it is reached
_KEYS_AT_ONCE = 500
_WAIT_S = 10.0


def default_folder() -> Path:
    """What the environment variable APPORTION_CACHE names, or `apportion` in the user's folder for caches."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apportion"


class EmbeddingCache:
    """A file of vectors. What cannot be read or written is encoded as if there were none.

    Args:
        folder: where the file is, readable by its user only.
        most_bytes: of vectors; beyond it those that were not asked for for the longest time go.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file = folder / "embeddings.sqlite"
        self._most_bytes = most_bytes

    def encode(self, encoder: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]) -> Vectors:
        """Vectors of the texts, those that are not known from `encode`.

        Args:
            encoder: all that the vectors depend on beside the texts.
        """
        keys = [hashlib.sha256(f"{encoder}\0{text}".encode(errors="surrogatepass")).digest() for text in texts]
        known = self._tried(lambda: self._read(keys)) or {}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            found = dict(zip(missing, encode(list(missing.values())), strict=True))
            self._tried(lambda: self._write(found))
            known |= found
        return np.vstack([known[key] for key in keys]) if keys else encode(texts)

    def _tried(self, step: Callable[[], Done]) -> Done | None:
        """What a step on the file gives; None where the file does not let it."""
        try:
            return step()
        except (sqlite3.Error, OSError) as error:
            logger.warning("embeddings are not kept: %s: %s", self._file, type(error).__name__)
            return None

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        found: dict[bytes, Vectors] = {}
        with self._opened() as database:
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                rows = database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)
                found |= {key: np.frombuffer(vector, dtype="<f4") for key, vector in rows}
                database.execute(f"UPDATE vectors SET used = ? WHERE key IN ({marks})", (time.time(), *part))
        return found

    def _write(self, found: dict[bytes, Vectors]) -> None:
        with self._opened() as database:
            rows = [(key, vector.astype("<f4").tobytes(), time.time()) for key, vector in found.items()]
            database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            (held,) = database.execute("SELECT TOTAL(LENGTH(vector)) FROM vectors").fetchone()
            if held > self._most_bytes:
                database.execute(
                    "DELETE FROM vectors WHERE key IN (SELECT key FROM (SELECT key, SUM(LENGTH(vector)) OVER "
                    "(ORDER BY used DESC, key) AS held FROM vectors) WHERE held > ?)",
                    (_KEPT_SHARE * self._most_bytes,),
                )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A transaction on the file."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as database, database:
            database.execute("PRAGMA auto_vacuum = FULL")
            database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB, used REAL)")
            yield database


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
