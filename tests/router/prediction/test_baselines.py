from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.baselines import BoostedTreesEstimator, LogisticEstimator
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.features import Features


@pytest.mark.parametrize(
    "estimator",
    [LogisticEstimator(strengths=(0.1, 10.0), members=3), BoostedTreesEstimator(iterations=30, members=3)],
    ids=["logistic", "boosted"],
)
def test_baselines_learn_from_embeddings_and_leave_unknown_outcomes_out(
    encoder: Encoder, outcomes: OutcomesTable, estimator: LogisticEstimator | BoostedTreesEstimator
) -> None:
    train, validation, test = outcomes.split(seed=0)
    scores = train.scores.copy()
    scores[::3, 1] = np.nan
    train = dataclasses.replace(train, scores=scores)
    features = [Features.of(part.prompts, encoder) for part in (train, validation, test)]
    fitted = estimator.fit(features[0], train, (features[1], validation), seed=0)
    prediction = fitted.predict(features[2])
    assert fitted.models == train.models
    means = np.nanmean(train.scores, axis=0)
    assert np.mean((prediction.success - test.scores) ** 2) < 0.93 * np.mean((means - test.scores) ** 2)
    assert prediction.success_samples.shape == (3, len(test), 3)
    assert (prediction.success_std > 0).mean() > 0.9
    assert np.corrcoef(prediction.output_tokens.ravel(), test.output_tokens.ravel())[0, 1] > 0.5
    assert prediction.output_tokens.mean() == pytest.approx(test.output_tokens.mean(), rel=0.15)


def test_a_model_that_never_fails_is_believed(encoder: Encoder, outcomes: OutcomesTable) -> None:
    scores = outcomes.scores.copy()
    scores[:, 0] = 1.0
    table = dataclasses.replace(outcomes, scores=scores)
    features = Features.of(table.prompts, encoder)
    fitted = LogisticEstimator(strengths=(1.0,)).fit(features, table, (features, table))
    assert (fitted.predict(features).success[:, 0] > 0.99).all()
