from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.descent import Descent, Parameters, Rows
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.features import Features
from apportion.router.prediction.head import BLOCK, Head
from apportion.router.prediction.head_training import HeadEstimator, with_token_scale
from apportion.router.prediction.request_features import Reach
from apportion.router.prediction.targets import Targets

QUICK = HeadEstimator(members=3, hidden=16, max_epochs=40)


@pytest.fixture(scope="module")
def split(encoder: Encoder, outcomes: OutcomesTable) -> list[tuple[Features, OutcomesTable]]:
    return [(Features.of(part.prompts, encoder), part) for part in outcomes.split(seed=0)]


@pytest.fixture(scope="module")
def head(split: list[tuple[Features, OutcomesTable]]) -> Head:
    return QUICK.fit(*split[0], split[1], seed=0)


def _log_loss(success: np.ndarray, scores: np.ndarray) -> float:
    p = np.clip(success, 1e-3, 1 - 1e-3)
    return float(-np.nanmean(scores * np.log(p) + (1 - scores) * np.log(1 - p)))


def test_the_head_beats_the_mean_on_fresh_rows(head: Head, split: list[tuple[Features, OutcomesTable]]) -> None:
    features, table = split[2]
    prediction = head.predict(features)
    means = np.broadcast_to(split[0][1].scores.mean(axis=0), table.scores.shape)
    assert _log_loss(prediction.success, table.scores) < 0.8 * _log_loss(means, table.scores)
    np.testing.assert_allclose(prediction.success, prediction.success_samples.mean(axis=0))
    assert (prediction.success_std > 0).all()


def test_lengths_follow_the_question_and_sum_up(head: Head, split: list[tuple[Features, OutcomesTable]]) -> None:
    features, table = split[2]
    prediction = head.predict(features)
    assert np.corrcoef(prediction.output_tokens.ravel(), table.output_tokens.ravel())[0, 1] > 0.8
    assert prediction.output_tokens.mean() == pytest.approx(table.output_tokens.mean(), rel=0.1)
    relative = (table.output_tokens - prediction.output_tokens) / prediction.output_tokens_std
    assert 0.6 < relative.std() < 1.5


def test_the_seed_decides_the_result(head: Head, split: list[tuple[Features, OutcomesTable]]) -> None:
    again, other = (QUICK.fit(*split[0], split[1], seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.weights.hidden_weight, head.weights.hidden_weight)
    assert (other.weights.hidden_weight != head.weights.hidden_weight).any()


def test_unknown_outcomes_leave_no_trace(split: list[tuple[Features, OutcomesTable]]) -> None:
    """Whatever stands in the arrays where an outcome is unknown, the weights are the same."""
    rows, checks = (_with_holes(table) for _, table in split[:2])
    targets = Targets.of(rows)
    inputs = [torch.from_numpy(features.stacked(Reach.nothing())) for features, _ in split[:2]]
    start = Parameters(
        torch.ones(2, inputs[0].shape[1], 4) / 9, torch.zeros(2, 1, 4), torch.ones(2, 4, 2, 3), torch.zeros(2, 2, 3)
    )
    descent = Descent(0.0, 1e-2, 0.0, token_weight=0.5, batch_size=64, max_epochs=3, patience=3)

    def trained(fill: Callable[[Targets], Targets]) -> Parameters:
        parts = (targets, Targets.of(checks, targets))
        train, validation = (Rows(x, fill(part)) for x, part in zip(inputs, parts, strict=True))
        return descent.run(start, train, validation, 0, None)

    one, two = trained(lambda part: part), trained(_overwritten)
    for before, after, first in zip(one.all(), two.all(), start.all(), strict=True):
        np.testing.assert_array_equal(after.numpy(), before.numpy())
        assert (before != first).any()


def _with_holes(table: OutcomesTable) -> OutcomesTable:
    """Two sevenths of the scores and, elsewhere, of the lengths are unknown."""
    cells = np.arange(table.scores.size).reshape(table.scores.shape) % 7
    return dataclasses.replace(
        table,
        scores=np.where(cells < 2, np.nan, table.scores),
        output_tokens=np.where(cells > 4, np.nan, table.output_tokens),
    )


def _overwritten(targets: Targets) -> Targets:
    return dataclasses.replace(
        targets,
        scores=torch.where(targets.score_known > 0, targets.scores, 1.0),
        lengths=torch.where(targets.length_known > 0, targets.lengths, 9.0),
    )


@pytest.mark.parametrize("added", [1, BLOCK])
def test_added_models_leave_the_others_to_the_bit(
    head: Head, split: list[tuple[Features, OutcomesTable]], added: int
) -> None:
    names = tuple(f"new{i}" for i in range(added))
    grown_split = [(features, _renamed(table, names)) for features, table in split]
    quick = dataclasses.replace(QUICK, max_epochs=30)
    grown = quick.add_models(head, *grown_split[0], grown_split[1])
    before, after = head.predict(split[2][0]), grown.predict(split[2][0])
    assert grown.models == ("small", "medium", "large", *names)
    np.testing.assert_array_equal(after.success_samples[:, :, :3], before.success_samples)
    np.testing.assert_array_equal(after.output_tokens[:, :3], before.output_tokens)
    np.testing.assert_array_equal(after.output_tokens_std[:, :3], before.output_tokens_std)
    truth = split[2][1].scores[:, 1]
    mean = np.full(len(truth), split[0][1].scores[:, 1].mean())
    assert _log_loss(after.success[:, 3], truth) < 0.9 * _log_loss(mean, truth)
    with pytest.raises(OutcomesTableError, match="the head has columns for them already"):
        quick.add_models(head, *split[0], split[1])


def _renamed(table: OutcomesTable, names: tuple[str, ...]) -> OutcomesTable:
    """The table's second model under each of these names."""
    repeated = {
        name: np.repeat(getattr(table, name)[:, 1:2], len(names), axis=1)
        for name in ("scores", "input_tokens", "output_tokens", "cost_usd")
    }
    return dataclasses.replace(table, models=names, prices={}, **repeated)


def test_chosen_models_come_in_the_order_asked(head: Head, split: list[tuple[Features, OutcomesTable]]) -> None:
    whole, part = head.predict(split[2][0]), head.select(["large", "small"]).predict(split[2][0])
    np.testing.assert_array_equal(part.success, whole.success[:, [2, 0]])
    np.testing.assert_array_equal(part.output_tokens, whole.output_tokens[:, [2, 0]])


def test_lengths_never_seen_stay_unknown(head: Head, split: list[tuple[Features, OutcomesTable]]) -> None:
    features, table = split[1]
    tokens = table.output_tokens.copy()
    tokens[:, 0] = np.nan
    scaled = with_token_scale(head, features, dataclasses.replace(table, output_tokens=tokens))
    prediction = scaled.predict(features)
    assert np.isnan(prediction.output_tokens[:, 0]).all()
    assert np.isfinite(prediction.output_tokens[:, 1:]).all()


def test_a_model_without_scores_is_refused(split: list[tuple[Features, OutcomesTable]]) -> None:
    features, table = split[0]
    scores = table.scores.copy()
    scores[:, 1] = np.nan
    with pytest.raises(OutcomesTableError, match=r"no score of \['medium'\]"):
        QUICK.fit(features, dataclasses.replace(table, scores=scores), split[1])


def test_progress_is_told(split: list[tuple[Features, OutcomesTable]]) -> None:
    told: list[tuple[int, int]] = []
    dataclasses.replace(QUICK, max_epochs=2).fit(
        *split[0], split[1], progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
