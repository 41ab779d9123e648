"""Cheap features of a text that a sentence embedding loses: lengths, digits, longest runs, punctuation.

Whether a model manages "add these two numbers" or "spell this word backwards" hangs on how long the numbers
and words are, and mean pooling keeps little of that. The features are taken of the whole text and of its
last paragraph, which in a few-shot prompt is the question itself. They are counted on UTF-8 bytes, for a
whole batch at once, and cost microseconds a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import BoolArray, FloatArray, IntArray

MAX_BYTES = 16_384
_CLASSES: tuple[tuple[str, bytes], ...] = (
    ("lower", b"abcdefghijklmnopqrstuvwxyz"),
    ("upper", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ("digit", b"0123456789"),
    ("space", b" \t\r"),
    ("newline", b"\n"),
    ("stop", b".!;:"),
    ("comma", b","),
    ("question", b"?"),
    ("quote", b"\"'`"),
    ("bracket", b"()[]"),
    ("operator", b"+-*/=<>^%~|&"),
    ("code", b"{}\\_$#@"),
)
_OTHER = len(_CLASSES)
_N_CLASSES = _OTHER + 1
_RUNS = ("word", "number")


def _class_of_byte() -> IntArray:
    table = np.full(256, _OTHER, dtype=np.int64)
    for index, (_, members) in enumerate(_CLASSES):
        table[np.frombuffer(members, dtype=np.uint8)] = index
    return table


_CLASS_OF_BYTE = _class_of_byte()
_NEWLINE = [name for name, _ in _CLASSES].index("newline")
_WORD = np.array([name in ("lower", "upper", "digit") for name, _ in _CLASSES] + [True])
_NUMBER = np.array([name == "digit" for name, _ in _CLASSES] + [False])


def feature_names() -> tuple[str, ...]:
    """Names of the columns of `text_features`, in order."""
    counts = [name for name, _ in _CLASSES] + ["other"]
    one = ["log_bytes"]
    one += [f"log_{name}" for name in counts] + [f"share_{name}" for name in counts]
    one += [f"{stat}_{run}" for run in _RUNS for stat in ("log_count", "log_longest", "log_mean_length")]
    return tuple(f"{part}.{name}" for part in ("text", "last_paragraph") for name in one)


def text_features(texts: Sequence[str]) -> NDArray[np.float32]:
    """Features of every text, shape `(n_texts, len(feature_names()))`; only the last 16 KiB of a text
    count.
    """
    stripped = [text.rstrip() for text in texts]
    whole = _byte_features(stripped)
    # Most texts are one paragraph, which is not counted twice.
    several = [row for row, text in enumerate(stripped) if "\n\n" in text]
    last = whole.copy()
    if several:
        last[several] = _byte_features([stripped[row][stripped[row].rfind("\n\n") + 2 :] for row in several])
    return np.hstack([whole, last])


def _byte_features(texts: Sequence[str]) -> NDArray[np.float32]:
    encoded = [text[-MAX_BYTES:].encode("utf-8", "replace")[-MAX_BYTES:] for text in texts]
    lengths = np.array([len(data) for data in encoded], dtype=np.int64)
    # A newline after every text keeps a run from reaching into its neighbour.
    classes = _CLASS_OF_BYTE[np.frombuffer(b"\n".join([*encoded, b""]), dtype=np.uint8)]
    owner = np.repeat(np.arange(len(texts)), lengths + 1)
    counts = np.bincount(owner * _N_CLASSES + classes, minlength=len(texts) * _N_CLASSES)
    counts = counts.reshape(len(texts), _N_CLASSES).astype(np.float64)
    counts[:, _NEWLINE] -= 1
    shares = counts / np.maximum(lengths, 1)[:, None]
    runs = [_run_features(flag[classes], owner, len(texts)) for flag in (_WORD, _NUMBER)]
    columns = [np.log1p(lengths)[:, None], np.log1p(counts), shares, *runs]
    return np.hstack(columns).astype(np.float32)


def _run_features(inside: BoolArray, owner: IntArray, n_texts: int) -> FloatArray:
    """Log of how many runs of `inside` each text has, of the longest, and of their mean length: `(n_texts,
    3)`.
    """
    edges = np.diff(inside.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    run_owner = owner[starts]
    count = np.bincount(run_owner, minlength=n_texts)
    longest = np.zeros(n_texts)
    np.maximum.at(longest, run_owner, ends - starts)
    total = np.bincount(run_owner, weights=ends - starts, minlength=n_texts)
    return np.asarray(np.log1p(np.column_stack([count, longest, total / np.maximum(count, 1)])))
