"""What was asked, answered and judged: an append-only file, so that a run that was ended at any moment goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apportion.router.errors import ConfigurationError
from apportion.router.texts import is_unicode

Key = tuple[str, str, int]
"""Query, model, and number of the sample."""


class Journal:
    """Answers and scores by (query, model, sample).

    prices: USD per million tokens of input, output and cached input, by model.
    Every line is on the disk before `append` returns. An answer holds `text`, or `error` where the model failed.
    """

    def __init__(self, file: Path, lines: list[dict[str, Any]], descriptor: int) -> None:
        self.file = file
        self.answers: dict[Key, dict[str, Any]] = {}
        self.scores: dict[tuple[Key, str], float] = {}
        self.prices: dict[str, list[float | None]] = {}
        self.header: dict[str, Any] = {}
        self.spent_usd = 0.0
        self._descriptor = descriptor
        for line in lines:
            self._take(line)

    def append(self, line: dict[str, Any]) -> None:
        """One more line, durably."""
        text = json.dumps(line, ensure_ascii=False)
        # A model may answer with half of a surrogate pair, which no file can hold but as an escape.
        data = (text if is_unicode(text) else json.dumps(line)).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)
        self._take(line)

    def agree(self, header: dict[str, Any]) -> None:
        """Begin with this header, or make sure that the journal did.

        Raises:
            ConfigurationError: it was begun with another one.
        """
        if not self.header:
            self.append({"kind": "header", **header})
        for name, value in header.items():
            if self.header.get(name) != value:
                raise ConfigurationError(
                    f"{self.file}: holds answers that were asked for with {name} {self.header.get(name)!r}, not "
                    f"{value!r}; give another --out, or the same options"
                )

    def _take(self, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind == "header":
            self.header = line
            return
        if kind == "price":
            self.prices[line["model"]] = line["usd_per_million"]
            return
        self.spent_usd += line.get("cost_usd") or 0.0
        if kind in {"answer", "score"}:
            key = (line["query_id"], line["model"], line["sample"])
            if kind == "answer":
                self.answers[key] = line
            else:
                self.scores[key, line["judge"]] = line["score"]


@contextlib.contextmanager
def open_journal(file: Path) -> Iterator[Journal]:
    """The journal at `file`, which only one process may write; a last line that was cut off is removed.

    Raises:
        ConfigurationError: another process writes it, or a line before the last is broken.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(f"{file}: another process collects into it; wait for it, or end it") from None
        raw = file.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        os.ftruncate(descriptor, len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                found = json.loads(line)
                found["kind"]
            except (ValueError, KeyError, TypeError):
                raise ConfigurationError(f"{file}, line {number}: no line of a journal; remove it") from None
            lines.append(found)
        yield Journal(file, lines, descriptor)
    finally:
        os.close(descriptor)
