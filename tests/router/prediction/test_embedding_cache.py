"""Vectors that are kept by content: the same ones, encoded once, within a bound, and never in the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from apportion.router.prediction.embedding_cache import EmbeddingCache, Vectors, default_folder
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.encoders import Encoders, keep_vectors


class Counting:
    """Vectors of four numbers, and the texts that were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return np.array([[len(text), hash(text) % 97, 0, 1] for text in texts], dtype=np.float32).reshape(-1, 4)


def test_each_text_is_encoded_once_over_all_commands(tmp_path: Path) -> None:
    encode, texts = Counting(), ["a", "bb", "a", "ü\ud83d"]
    first = EmbeddingCache(tmp_path).encode("e", texts, encode)
    assert encode.asked == ["a", "bb", "ü\ud83d"]
    again = EmbeddingCache(tmp_path).encode("e", [*texts, "new"], encode)
    assert encode.asked[3:] == ["new"]
    assert np.array_equal(first, again[:4])
    assert np.array_equal(first, Counting()(texts))
    EmbeddingCache(tmp_path).encode("other encoder", ["a"], encode)
    assert encode.asked[4:] == ["a"]
    assert EmbeddingCache(tmp_path).encode("e", [], encode).shape == (0, 4)


def test_no_text_is_kept_and_nobody_else_reads_it(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path / "c").encode("e", ["a very secret prompt"], Counting())
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0
    assert b"secret" not in (tmp_path / "c" / "embeddings.sqlite").read_bytes()


def test_what_was_not_asked_for_for_longest_goes_first(tmp_path: Path) -> None:
    cache, encode = EmbeddingCache(tmp_path, most_bytes=160), Counting()
    cache.encode("e", [f"old {n}" for n in range(10)], encode)
    cache.encode("e", ["old 0"], encode)
    cache.encode("e", ["new"], encode)
    encode.asked.clear()
    cache.encode("e", ["new", "old 0"], encode)
    assert encode.asked == []
    cache.encode("e", [f"old {n}" for n in range(10)], encode)
    assert 1 <= len(encode.asked) < 10


def test_a_broken_file_costs_time_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "embeddings.sqlite").write_text("no database at all, but long enough to be taken for one" * 20)
    encode = Counting()
    assert len(EmbeddingCache(tmp_path).encode("e", ["a"], encode)) == 1
    assert "embeddings are not kept" in caplog.text
    (tmp_path / "file").write_text("")
    assert len(EmbeddingCache(tmp_path / "file").encode("e", ["a"], encode)) == 1


def test_an_encoder_keeps_its_own_vectors(encoder_folder: Path, tmp_path: Path) -> None:
    texts = ["what is 1 plus 2?", "spell the word", "what"]
    plain = Encoder.load(str(encoder_folder)).encode(texts)
    for _ in range(2):
        encoders = Encoders.load(str(encoder_folder), texts=texts)
        keep_vectors(encoders.both, EmbeddingCache(tmp_path))
        assert np.array_equal(encoders.transformer.encode(texts), plain)
        keep_vectors(encoders.static, EmbeddingCache(tmp_path))


def test_the_folder_is_the_users_own_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("APPORTION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "apportion"
