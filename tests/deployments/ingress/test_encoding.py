"""Compressed bodies are opened within a bound."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable

import pyarrow as pa
import pytest

from apportion.deployments.ingress.encoding import decoded
from apportion.router.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

BODY = b'{"prompt": "What is 1 plus 1?"}'


def _bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def _zstd(body: bytes) -> bytes:
    packed: bytes = pa.compress(body, codec="zstd", asbytes=True)
    return packed


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "GZIP": ("GZIP", gzip.compress),
    "two files": ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", _bare_deflate),
    "zstd": ("zstd", _zstd),
}


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_packed_is_opened(kind: str) -> None:
    encoding, pack = PACKED[kind]
    assert decoded(pack(BODY), [encoding], len(BODY)) == BODY


@pytest.mark.parametrize("kind", PACKED)
def test_the_bound_is_of_what_is_opened(kind: str) -> None:
    encoding, pack = PACKED[kind]
    bomb = pack(bytes(50_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(PayloadTooLargeError):
        decoded(bomb, [encoding], 1 << 20)


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_damaged_or_cut_off_is_refused(kind: str) -> None:
    encoding, pack = PACKED[kind]
    for damaged in (pack(BODY)[:-5], b"no such thing"):
        with pytest.raises(InvalidRequestError):
            decoded(damaged, [encoding], 1 << 20)


@pytest.mark.parametrize("encodings", [[], [""], ["identity"], ["identity, ", "Identity"]])
def test_what_is_not_packed_stays(encodings: list[str]) -> None:
    assert decoded(BODY, encodings, 5) == BODY  # the bound held while it was read


@pytest.mark.parametrize("encodings", [["gzip, zstd"], ["gzip", "zstd"], [" GZip ,identity,,ZSTD "]])
def test_what_is_packed_twice_is_opened_twice(encodings: list[str]) -> None:
    assert decoded(_zstd(gzip.compress(BODY)), encodings, 1 << 20) == BODY
    with pytest.raises(InvalidRequestError, match="no whole zstd"):
        decoded(gzip.compress(_zstd(BODY)), encodings, 1 << 20)


def test_the_bound_is_also_of_what_is_half_opened() -> None:
    bomb = gzip.compress(gzip.compress(bytes(50_000_000)) + bytes(2 << 20))
    with pytest.raises(PayloadTooLargeError):
        decoded(bomb, ["gzip, gzip"], 1 << 20)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_follows_a_packed_body_is_no_part_of_it(encoding: str) -> None:
    pack = PACKED[encoding][1]
    with pytest.raises(InvalidRequestError, match=f"no whole {encoding}"):
        decoded(pack(BODY) + b"and more", [encoding], 1 << 20)


def test_files_without_end_are_not_opened_one_by_one() -> None:
    assert decoded(gzip.compress(b" ") * 100, ["gzip"], 1 << 20) == b" " * 100
    started_s = time.process_time()
    with pytest.raises(InvalidRequestError, match="pack it as one"):
        decoded(gzip.compress(b"") * 200_000, ["gzip"], 1 << 22)  # a body of 4 MB
    assert time.process_time() - started_s < 2


@pytest.mark.parametrize("encoding", ["br", "gzip, br", "secret", "gzip;q=1", "gzip, gzip, gzip, gzip"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncodingError, match="gzip, deflate or zstd") as caught:
        decoded(BODY, [encoding], 1 << 20)
    assert caught.value.status == 415
