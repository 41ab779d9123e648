"""Bodies that clients have compressed, opened within a bound: a few bytes can stand for gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

from apportion.router.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

MAX_ENCODINGS = 3
MAX_FILES = 128  # of gzip in a row; each copies what follows it
_GZIP = 16 + zlib.MAX_WBITS


def decoded(raw: bytes, encodings: Sequence[str], max_bytes: int) -> bytes:
    """The body without its content encodings.

    Args:
        encodings: the headers `content-encoding`, each one name or several, in the order in which they were applied.
        max_bytes: of the body when it is open, and of what it is on the way there.

    Raises:
        UnsupportedEncodingError: another encoding than gzip, deflate or zstd, or too many of them.
        PayloadTooLargeError: it is larger than `max_bytes`.
        InvalidRequestError: it is not in that encoding, or not whole.
    """
    names = [name.strip().lower() for name in ",".join(encodings).split(",")]
    applied = [name for name in names if name not in {"", "identity"}]
    if len(applied) > MAX_ENCODINGS or not _OPENERS.keys() >= set(applied):
        raise UnsupportedEncodingError(
            f"content-encoding: use gzip, deflate or zstd, {MAX_ENCODINGS} of them at most, or send the body as it is"
        )
    for name in reversed(applied):
        raw = _OPENERS[name](raw, max_bytes)
    return raw


def _gunzipped(raw: bytes, max_bytes: int) -> bytes:
    found = b""
    for _ in range(MAX_FILES):
        opened, raw = _inflated(raw, _GZIP, max_bytes - len(found), "gzip")
        found += opened
        if not raw:
            return found
    raise InvalidRequestError(f"the body is more than {MAX_FILES} files of gzip in a row; pack it as one")


def _undeflated(raw: bytes, max_bytes: int) -> bytes:
    # By the standard with zlib's header, which some clients leave out.
    window = zlib.MAX_WBITS if raw[:1] and raw[0] & 0x0F == 8 else -zlib.MAX_WBITS
    found, rest = _inflated(raw, window, max_bytes, "deflate")
    if rest:
        raise _damaged("deflate")
    return found


def _inflated(raw: bytes, window: int, max_bytes: int, name: str) -> tuple[bytes, bytes]:
    """What is packed at the beginning, and what comes after it."""
    opener = zlib.decompressobj(window)
    try:
        found = opener.decompress(raw, max_bytes + 1)
    except zlib.error:
        raise _damaged(name) from None
    if len(found) > max_bytes:
        raise _too_large(max_bytes)
    if not opener.eof:
        raise _damaged(name)
    return found, opener.unused_data


def _unpacked(raw: bytes, max_bytes: int) -> bytes:
    import pyarrow as pa  # here, not above: it is slow to import, and few clients use zstd

    try:
        with pa.input_stream(pa.py_buffer(raw), compression="zstd") as stream:
            found: bytes = stream.read(max_bytes + 1)
    except OSError:
        raise _damaged("zstd") from None
    if len(found) > max_bytes:
        raise _too_large(max_bytes)
    return found


_OPENERS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _undeflated,
    "zstd": _unpacked,
}


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body is larger than {max_bytes} bytes; send a shorter prompt")


def _damaged(name: str) -> InvalidRequestError:
    return InvalidRequestError(f"the body is no whole {name}; send it anew, or without content-encoding")
