"""What a request is beside its words: read where training has seen it vary, and never further than that."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from apportion.router.calibration import brier_score
from apportion.router.outcomes.table import TRAIT_COLUMNS, OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.features import Features
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.preparation import encode_in_steps
from apportion.router.prediction.request_features import REQUEST_FEATURES, Reach, request_features
from apportion.router.prediction.text_features import MAX_BYTES
from apportion.router.prediction.training import add_models, train_predictor
from apportion.router.traits import PLAIN, Traits
from tests.samples import make_outcomes

QUICK = HeadEstimator(members=2, hidden=32, learning_rate=1e-2, max_epochs=50)
TINY = HeadEstimator(members=2, hidden=8, max_epochs=3)
EXTREME = Traits(10**6, 1, 10**6, 10**6, 10**6, 10**9)
ODD = ["", "\0", "\0" * 50, "half \ud83d", "\udc00\ud83d", "\U0001f600" * 9, "\n\n", "a\n\n", "\u202e", "x" * 300_000]


def with_tools(n: int, seed: int) -> OutcomesTable:
    """Half of the requests have tools; those the large model never manages, whatever they ask."""
    table = make_outcomes(n, seed)
    tools = np.random.default_rng(seed + 1).integers(0, 4, n) * (np.arange(n) % 2)
    scores = table.scores.copy()
    scores[tools > 0, 2] = 0.0
    counts = dict(zip(TRAIT_COLUMNS, np.tile(PLAIN, (n, 1)).T, strict=True)) | {"request_tools": tools}
    return dataclasses.replace(table, queries=table.queries.assign(**counts), scores=scores)


@pytest.fixture(scope="module")
def table() -> OutcomesTable:
    return with_tools(600, seed=0)


@pytest.fixture(scope="module")
def predictor(encoder: Encoder, table: OutcomesTable) -> Predictor:
    return train_predictor(table, encoder, estimator=QUICK)


def test_what_varied_in_ten_rows_is_read_from_nothing_to_the_most_that_was_seen() -> None:
    seen = np.zeros((100, len(REQUEST_FEATURES)), np.float32)
    seen[:10, 0] = np.log1p(7)
    seen[:9, 1] = 1
    seen[:, 4] = np.log1p(1)
    reach = Reach.of(seen)
    assert reach.width == 1
    read = reach.read(request_features(["a"] * 4, [PLAIN, Traits(tools=7), Traits(1, 1, 1, 1, 9, 9), EXTREME]))
    np.testing.assert_allclose(read[:, 0], [0, 1, np.log(2) / np.log(8), 1], rtol=1e-6)


def test_text_that_its_own_features_do_not_see_is_counted() -> None:
    found = request_features(["a" * MAX_BYTES, "a" * (MAX_BYTES + 7)])[:, REQUEST_FEATURES.index("unread_chars")]
    np.testing.assert_allclose(found, [0, np.log(8)], rtol=1e-6)


def test_tools_make_estimates_sharper_where_they_matter(
    encoder: Encoder, predictor: Predictor, table: OutcomesTable
) -> None:
    """The table is the same to both but for what its requests are beside their words."""
    words_alone = dataclasses.replace(table, queries=table.queries.drop(columns=list(TRAIT_COLUMNS)))
    blind = train_predictor(words_alone, encoder, estimator=QUICK)
    fresh = with_tools(400, seed=9)
    tools = np.array([traits.tools > 0 for traits in fresh.traits])
    found = [one.predict(fresh.prompts, fresh.traits) for one in (predictor, blind)]
    errors = [brier_score(prediction.success, fresh.scores) for prediction in found]
    seen = found[0].success[:, 2]
    assert errors[0] < 0.7 * errors[1]
    assert seen[tools].mean() < 0.2 < 0.7 < seen[~tools].mean()


def test_what_never_varied_changes_neither_training_nor_any_estimate(encoder: Encoder, outcomes: OutcomesTable) -> None:
    train, validation, test = outcomes.split_rows(0)
    features = encode_in_steps(outcomes, encoder)
    without = dataclasses.replace(features, requests=np.zeros((len(features), 0), np.float32))
    head, bare = (
        TINY.fit(some.subset(train), outcomes.subset(train), (some.subset(validation), outcomes.subset(validation)))
        for some in (features, without)
    )
    for name in ("centre", "scale", "hidden_weight", "hidden_bias", "output_weight", "output_bias", "token_factor"):
        np.testing.assert_array_equal(getattr(head.weights, name), getattr(bare.weights, name))
    texts = outcomes.subset(test).prompts
    plain, extreme = (head.predict(Features.of(texts, encoder, [one] * len(texts))) for one in (PLAIN, EXTREME))
    np.testing.assert_array_equal(plain.success, extreme.success)
    np.testing.assert_array_equal(plain.output_tokens, extreme.output_tokens)


def test_more_than_training_has_seen_counts_as_the_most_of_it(predictor: Predictor) -> None:
    texts = make_outcomes(50, seed=4).prompts
    most = predictor.predict(texts, [Traits(tools=3)] * 50)
    beyond = predictor.predict(texts, [EXTREME] * 50)
    np.testing.assert_array_equal(beyond.success, most.success)
    assert np.isfinite(beyond.output_tokens).all()


def test_an_artefact_keeps_what_it_reads(predictor: Predictor, table: OutcomesTable, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path, device="cpu")
    before, after = (one.predict(table.prompts[:64], table.traits[:64]) for one in (predictor, loaded))
    np.testing.assert_array_equal(after.success, before.success)
    grown = add_models(loaded, dataclasses.replace(table, models=("a", "b", "c"), prices={}), recipe=QUICK)
    success = grown.predict(table.prompts[:64], table.traits[:64]).success
    np.testing.assert_array_equal(success[:, :3], before.success)
    tools = np.array([traits.tools > 0 for traits in table.traits[:64]])
    assert success[tools, 5].mean() < 0.2 < 0.7 < success[~tools, 5].mean()


def test_an_artefact_of_version_2_is_read_and_knows_no_requests(
    encoder: Encoder, outcomes: OutcomesTable, tmp_path: Path
) -> None:
    predictor = train_predictor(outcomes, encoder, estimator=TINY)
    predictor.save(tmp_path)
    described = json.loads((tmp_path / "artefact.json").read_text())
    (tmp_path / "artefact.json").write_text(json.dumps(described | {"version": 2}))
    arrays = load_file(tmp_path / "weights.safetensors")
    save_file(
        {name: values for name, values in arrays.items() if not name.startswith("request_")},
        tmp_path / "weights.safetensors",
    )
    old = Predictor.load(tmp_path, device="cpu")
    texts = outcomes.prompts[:20]
    np.testing.assert_array_equal(old.predict(texts, [EXTREME] * 20).success, predictor.predict(texts).success)


def test_no_requests_have_no_features(predictor: Predictor) -> None:
    assert predictor.predict([]).success.shape == predictor.predict([], []).success.shape == (0, 3)


def test_no_text_is_too_odd(predictor: Predictor) -> None:
    together = predictor.predict(ODD, [EXTREME, PLAIN] * (len(ODD) // 2))
    assert np.isfinite(together.success).all()
    assert np.isfinite(together.output_tokens).all()
