"""What an evaluation says in words, and how it is drawn."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apportion.router.evaluation.arms import ARMS
from apportion.router.evaluation.batches import Setting
from apportion.router.evaluation.case import usable
from apportion.router.evaluation.plot import CLOSE_TO_OTHERS, MOST_LINES, draw, legible, styles, unbeaten
from apportion.router.evaluation.protocol import BUDGET_FRACTIONS, Evaluation, Measure, Row, evaluate
from apportion.router.evaluation.verdict import left_out, singles, verdict
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.request_features import request_features
from tests.samples import make_outcomes

NAN = float("nan")


def evaluated(gains: tuple[float, ...], arms: tuple[str, ...] = ("oracle", "mip"), share: float = 0.4) -> Evaluation:
    """Splits in which `large` is chosen and scores 0.6, and `mip` gains so much on it at its cost."""
    rows, measures = [], []
    for seed, gain in enumerate(gains):
        common = {"seed": seed, "estimator": "knn", "best_single_score": 0.6, "best_single_cost_usd": 2e-4}
        for name, score, usd in (("small", 0.3, 1e-5), ("large", 0.6, 2e-4)):
            rows.append(Row(arm=f"single:{name}", budget_fraction=usd / 2e-4, score=score, cost_usd=usd, **common))
        for arm in arms:
            for fraction in BUDGET_FRACTIONS:
                score = None if fraction < 0.1 else 0.6 + gain * fraction
                rows.append(Row(arm=arm, budget_fraction=fraction, score=score, cost_usd=2e-4 * fraction, **common))
            measures.append(Measure(seed, arm, "knn", 0.5, 0.1, (0.1, 0.2, 0.3, share), 0.0, 1.0))
    return Evaluation(tuple(rows), tuple(measures), {})


@pytest.mark.parametrize(
    ("gains", "says"),
    [
        ((0.05, 0.06, 0.05), r"\+0\.053 \(95 % interval \+0\.039 to \+0\.068 over 3 splits\), a gain"),
        ((0.05, -0.06, 0.01), "so no gain is shown"),
        ((-0.05, -0.06, -0.05), "a loss"),
        ((0.05,), "on one split, which proves nothing; give --seeds 5"),
    ],
)
def test_one_sentence_says_whether_routing_gains(gains: tuple[float, ...], says: str) -> None:
    said = str(verdict(evaluated(gains)))
    assert pytest.approx(0.6 + np.mean(gains), abs=5e-4) == float(said.split("scores ")[1].split()[0])
    assert "where large, the best single model, scores 0.600, for the same 0.0002 USD a request" in said
    assert re.search(says, said)


def test_the_share_of_the_cost_is_told_where_it_is_one() -> None:
    assert "the score of large is reached at 40% of its cost" in str(verdict(evaluated((0.05, 0.06))))
    assert "reached" not in str(verdict(evaluated((0.05, 0.06), share=NAN)))


def test_without_an_arm_that_routes_there_is_no_verdict() -> None:
    assert verdict(evaluated((0.1, 0.1), arms=("oracle", "random_mixture"))) is None


def test_single_models_stand_with_what_they_cost_the_best_first() -> None:
    assert [(one.model, one.cost_usd) for one in singles(evaluated((0.1, 0.1)))] == [("large", 2e-4), ("small", 1e-5)]


def test_what_is_left_out_is_told_with_the_reason() -> None:
    table = make_outcomes(300, seed=1)
    cost, scores = table.cost_usd.copy(), table.scores.copy()
    cost[:, 0] = np.nan
    scores[:2, 2] = np.nan
    unpriced = replace(table, cost_usd=cost, scores=scores)
    assert list(left_out(unpriced, usable(unpriced), 0.03)) == [
        "1 of 3 models are left out (small), since nothing is known of their costs: give prices, or a GPU's",
        "2 of 300 requests are left out, since score or cost of a model that is looked at is missing, most often of "
        "large",
    ]
    scores[:50, 0] = np.nan
    sparse = replace(table, scores=scores)
    assert "since scores or costs of more than 3% of the requests" in next(left_out(sparse, usable(sparse), 0.03))
    assert not list(left_out(table, table, 0.03))


def test_coin_tosses_on_repeated_prompts_are_no_gain() -> None:
    rng = np.random.default_rng(5)
    prompts = np.repeat(["".join(rng.choice(list("abcdefgh"), 12)) for _ in range(80)], 4).tolist()
    score = np.repeat(rng.integers(0, 2, (80, 2)), 4, axis=0).astype(np.float64)
    queries = pd.DataFrame({"query_id": [str(n) for n in range(320)], "task": "", "prompt": prompts})
    counts = np.full((320, 2), 10.0)
    table = OutcomesTable(queries, ("one", "other"), score, counts, counts, np.full((320, 2), 1e-4))
    place = pd.factorize(pd.Series(prompts))[0]
    vectors = np.random.default_rng(6).normal(size=(80, 8)).astype(np.float32)[place]
    features = Features(vectors, np.zeros((320, 1), np.float32), request_features(prompts))
    found = evaluate(
        table, features, {"knn": KnnEstimator(5, members=2)}, arms=("mip",), seeds=5, setting=Setting(batch_size=64)
    )
    assert "so no gain is shown" in str(verdict(found)) or "a loss" in str(verdict(found))


def test_a_dozen_lines_are_drawn_and_no_two_are_alike(tmp_path: Path) -> None:
    shown = legible(ARMS)
    assert len(shown) <= MOST_LINES
    assert set(ARMS) - set(shown) <= set(CLOSE_TO_OTHERS)
    assert legible(["mip", "robust_cost"]) == ["mip", "robust_cost"]
    drawn = styles(shown)
    assert len({(one.colour, one.dash) for one in drawn.values()}) == len(shown)
    assert drawn["oracle"].colour not in {one.colour for arm, one in drawn.items() if arm != "oracle"}
    draw(evaluated((0.1, 0.1), arms=tuple(ARMS)), tmp_path / "drawn.svg")
    text = (tmp_path / "drawn.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in ("large", "small", "oracle", "mip"))


def test_of_many_models_those_are_named_that_nobody_beats() -> None:
    means = np.array([[0.1, 0.5], [0.2, 0.4], [1.0, 1.0], [0.1, 0.5]])
    assert [unbeaten(means, *row) for row in means] == [True, False, True, True]
