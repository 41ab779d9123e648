"""Bodies that clients have compressed, opened within a bound: a few bytes can stand for gigabytes."""

from __future__ import annotations

import zlib

from apportion.router.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

_GZIP = 16 + zlib.MAX_WBITS


def decoded(raw: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """The body without its content encoding.

    Args:
        encoding: the header `content-encoding`; None: there is none.
        max_bytes: of the body when it is open.

    Raises:
        UnsupportedEncodingError: another encoding than gzip, deflate or zstd.
        PayloadTooLargeError: it is larger than `max_bytes`.
        InvalidRequestError: it is not in that encoding, or not whole.
    """
    name = (encoding or "identity").strip().lower()
    if name in {"identity", ""}:
        return raw
    if name in {"gzip", "x-gzip"}:
        return _inflated(raw, _GZIP, max_bytes, name)
    if name == "deflate":
        # By the standard with zlib's header, which some clients leave out.
        return _inflated(raw, zlib.MAX_WBITS if raw[:1] and raw[0] & 0x0F == 8 else -zlib.MAX_WBITS, max_bytes, name)
    if name == "zstd":
        return _unpacked(raw, max_bytes)
    raise UnsupportedEncodingError("content-encoding: use gzip, deflate or zstd, or send the body as it is")


def _inflated(raw: bytes, window: int, max_bytes: int, name: str) -> bytes:
    found = b""
    while raw:  # gzip may be several files in a row
        opener = zlib.decompressobj(window)
        try:
            found += opener.decompress(raw, max_bytes - len(found) + 1)
        except zlib.error:
            raise _damaged(name) from None
        if len(found) > max_bytes:
            raise _too_large(max_bytes)
        if not opener.eof:
            raise _damaged(name)
        raw = opener.unused_data
    return found


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


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body is larger than {max_bytes} bytes; send a shorter prompt")


def _damaged(name: str) -> InvalidRequestError:
    return InvalidRequestError(f"the body is no whole {name}; send it anew, or without content-encoding")
