"""Static vectors, and both kinds side by side: what they are, what an artefact holds of them, and what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from apportion.router.errors import ArtefactError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.encoders import Encoders, default_encoder, load_encoder
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.static_encoder import StaticEncoder
from apportion.router.prediction.training import add_models, recalibrate, train_predictor
from tests.samples import make_outcomes

QUICK = HeadEstimator(members=3, hidden=16, max_epochs=25)
TEXTS = ["what is 12 plus 7?", "spell", "a " * 30, "", "the word abcdefgh backwards", "\ud800"]


@pytest.fixture(scope="module")
def static(encoder: Encoder) -> StaticEncoder:
    return StaticEncoder.distil(encoder)


def test_a_vector_is_the_mean_of_its_tokens_vectors_brought_to_length_one(static: StaticEncoder) -> None:
    vectors = static.vectors * static.scales[:, None]
    what, is_ = (vectors[static.tokens.tolist().index(token)] for token in (_id(static, "what"), _id(static, "is")))
    mean = (what + 2 * is_) / 3
    for text in ("what is is", "is what is"):
        np.testing.assert_allclose(static.encode([text])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_tokens_lie_as_the_encoder_has_them_alone(static: StaticEncoder, encoder: Encoder) -> None:
    """Centred, and whatever their rank: only what rounding to bytes costs is lost."""
    alone = encoder.encode_ids([[2, token, 3] for token in static.tokens.tolist()])  # between [CLS] and [SEP]
    own = alone - alone.mean(axis=0)
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    words = ["what", "is", "plus", "7", "a", "word"]
    rows = [static.tokens.tolist().index(_id(static, word)) for word in words]
    found = static.encode(words)
    np.testing.assert_allclose(found @ found.T, unit[rows] @ unit[rows].T, atol=0.02)


def test_common_tokens_come_first_in_a_vocabulary_and_weigh_less(encoder: Encoder, static: StaticEncoder) -> None:
    alone = encoder.encode_ids([[2, token, 3] for token in static.tokens.tolist()])
    own = np.linalg.norm(alone - alone.mean(axis=0), axis=1)
    lengths = np.linalg.norm(static.vectors * static.scales[:, None], axis=1)
    np.testing.assert_allclose(lengths / own, np.log(static.tokens + 2), rtol=0.02)


def test_a_tokenizer_that_pads_makes_the_same_vectors(
    static: StaticEncoder, encoder_folder: Path, tmp_path: Path
) -> None:
    padding = Path(shutil.copytree(encoder_folder, tmp_path / "padding"))
    tokenizer = Tokenizer.from_file(str(padding / "tokenizer.json"))
    tokenizer.enable_padding(length=60)
    tokenizer.enable_truncation(60)
    tokenizer.save(str(padding / "tokenizer.json"))
    made = StaticEncoder.distil(Encoder.load(str(padding), device="cpu"))
    np.testing.assert_array_equal(made.vectors, static.vectors)
    np.testing.assert_array_equal(made.encode(TEXTS), static.encode(TEXTS))


def _id(static: StaticEncoder, word: str) -> int:
    found = Tokenizer.from_str(static.tokenizer).token_to_id(word)
    assert found is not None
    return found


def test_a_vector_does_not_depend_on_its_batch_and_odd_texts_have_one(static: StaticEncoder) -> None:
    together = static.encode(TEXTS)
    np.testing.assert_array_equal(together, np.vstack([static.encode([text]) for text in TEXTS]))
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 1, 0, 1, 1], atol=1e-6)
    assert static.encode([]).shape == (0, static.dimension)


def test_long_texts_lose_their_beginning(static: StaticEncoder) -> None:
    ending = "what is the word? " * 30
    np.testing.assert_array_equal(static.encode(["a " * 100 + ending]), static.encode(["b " * 9_000 + ending]))


def test_where_not_all_tokens_get_a_vector_those_of_the_texts_come_first(encoder: Encoder) -> None:
    few = StaticEncoder.distil(encoder, ["what is 12 plus 7?"] * 3, vocabulary=9)
    assert few.vectors.shape[0] == 9
    assert np.abs(few.encode(["what is 12 plus 7?"])).sum() > 0
    assert few.encode(["spell the word"]).any() == 0
    assert few.dimension <= 9 + 23  # no more than the encoder's own 32


def test_the_main_directions_are_kept(encoder: Encoder, static: StaticEncoder) -> None:
    small = StaticEncoder.distil(encoder, dimension=16)
    assert (small.dimension, static.dimension) == (16, encoder.dimension)
    fine = (static.vectors * static.scales[:, None])[:, :16]
    np.testing.assert_allclose(np.abs(small.vectors * small.scales[:, None]), np.abs(fine), atol=0.05)


@pytest.mark.parametrize("kind", ["static:", "both:"])
def test_an_artefact_with_static_vectors_predicts_what_was_saved(
    encoder_folder: Path, outcomes: OutcomesTable, tmp_path: Path, kind: str
) -> None:
    predictor = train_predictor(outcomes, load_encoder(f"{kind}{encoder_folder}", "cpu"), estimator=QUICK)
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path, device="cpu")
    assert loaded.encoder.source == f"{kind}{encoder_folder}"
    np.testing.assert_array_equal(loaded.predict(TEXTS).success, predictor.predict(TEXTS).success)
    assert predictor.reports[1].brier_after < 0.2
    grown = add_models(loaded, _renamed(make_outcomes(300, seed=9)), recipe=QUICK)
    np.testing.assert_array_equal(grown.predict(TEXTS).success[:, :3], predictor.predict(TEXTS).success)
    recalibrate(loaded, outcomes).save(tmp_path / "again")
    assert Predictor.load(tmp_path / "again", device="cpu").encoder.source == loaded.encoder.source


def _renamed(table: OutcomesTable) -> OutcomesTable:
    return replace(table.select_models(["small"]), models=("newcomer",), prices={})


@pytest.fixture(scope="module")
def artefacts(encoder: Encoder, outcomes: OutcomesTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made, found = Encoders(encoder), {}
    for name in ("static", "both"):
        found[name] = tmp_path_factory.mktemp(name)
        train_predictor(outcomes, getattr(made, name), estimator=QUICK).save(found[name])
    return found


def test_static_vectors_need_no_encoder_beside_the_artefact(
    artefacts: dict[str, Path], encoder: Encoder, encoder_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtefactError, match="holds static vectors and needs no other encoder, leave it out"):
        Predictor.load(artefacts["static"], encoder=str(encoder_folder), device="cpu")
    with pytest.raises(ArtefactError, match="load that encoder, or train with this one"):
        Predictor.load(artefacts["static"], encoder=encoder)
    made = StaticEncoder.distil(encoder)
    assert Predictor.load(artefacts["static"], encoder=made).encoder is made
    moved = encoder_folder.rename(tmp_path / "moved")
    try:
        assert Predictor.load(artefacts["static"], device="cpu").predict(TEXTS).success.shape == (6, 3)
        both = Predictor.load(artefacts["both"], encoder=str(moved), device="cpu")
        assert both.encoder.dimension == 2 * encoder.dimension
    finally:
        moved.rename(encoder_folder)


@pytest.mark.parametrize("change", ["vectors", "missing"])
def test_static_vectors_that_were_changed_are_refused(artefacts: dict[str, Path], tmp_path: Path, change: str) -> None:
    for file in artefacts["static"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    arrays = load_file(tmp_path / "weights.safetensors")
    if change == "missing":
        del arrays["encoder.scales"]
    else:
        arrays["encoder.vectors"] = -arrays["encoder.vectors"]
    save_file(arrays, tmp_path / "weights.safetensors")
    with pytest.raises(ArtefactError, match="train it again" if change == "missing" else "SHA-256"):
        Predictor.load(tmp_path, device="cpu")


def test_static_vectors_are_the_default_without_a_gpu() -> None:
    assert default_encoder("cpu") == "static:minilm"
    assert default_encoder("cuda:1") == "minilm"
