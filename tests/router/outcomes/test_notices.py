from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from apportion.router.outcomes.notices import notices, unseen
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice


def _table(scores: np.ndarray, prompts: list[str] | None = None) -> OutcomesTable:
    n, m = scores.shape
    queries = pd.DataFrame(
        {"query_id": [str(i) for i in range(n)], "task": "", "prompt": prompts or [f"x{i}" for i in range(n)]}
    )
    unknown = np.full(scores.shape, np.nan)
    return OutcomesTable(queries, tuple(f"m{j}" for j in range(m)), scores, unknown, unknown, unknown)


def _by_difficulty(rng: np.random.Generator, n: int = 400, m: int = 3) -> np.ndarray:
    difficulty = rng.random((n, 1))
    return (rng.random((n, m)) > difficulty).astype(float)


def test_a_table_without_gaps_and_shared_prompts_is_passed_over(outcomes: OutcomesTable) -> None:
    one_each = outcomes.subset(np.unique(outcomes.prompts, return_index=True)[1])
    assert notices(one_each) == []


def test_prices_that_are_known_of_others_only_are_asked_for() -> None:
    table = _table(_by_difficulty(np.random.default_rng(0)))
    assert notices(table) == []
    (told,) = notices(replace(table, prices={"m1": ModelPrice(1.0, 2.0)}))
    assert told.startswith("no price is stated of m0, m2, but of 1 other models")
    assert notices(replace(table, prices=dict.fromkeys(table.models, ModelPrice(1.0, 2.0)))) == []


def test_what_training_hardly_sees_is_told() -> None:
    scores = _by_difficulty(np.random.default_rng(0), n=100)
    (told,) = unseen(_table(scores))
    assert told.startswith("hardly any of the 100 requests has a system prompt or text in another script than Latin: ")
    japanese = "\u4eca\u65e5\u306f\u3044\u3044\u5929\u6c17\u3067\u3059\u306d"
    mixed = _table(scores, [f"x{i}" if i % 2 else f"{japanese} {i}" for i in range(100)])
    (told,) = unseen(mixed)
    assert told.startswith("hardly any of the 100 requests has a system prompt: ")
    assert unseen(replace(mixed, queries=mixed.queries.assign(request_system_chars=40))) == []


def test_failures_that_were_left_out_are_told() -> None:
    scores = _by_difficulty(np.random.default_rng(0))
    scores[scores[:, 1] == 0, 1] = np.nan
    (told,) = notices(_table(scores))
    assert told.startswith("all that is known of 'm1' is success, and ")
    assert "% of its outcomes are missing" in told
    assert "score 0" in told


def test_some_failures_that_were_left_out_are_told_by_the_other_models() -> None:
    rng = np.random.default_rng(1)
    scores = _by_difficulty(rng)
    scores[(scores[:, 1] == 0) & (rng.random(len(scores)) < 0.5), 1] = np.nan
    (told,) = notices(_table(scores))
    assert told.startswith("outcomes of 'm1' are not missing at random: the other models score 0.")
    assert "Mann-Whitney p = " in told
    assert "looks better than it is" in told


def test_easy_prompts_that_were_left_out_make_a_model_look_worse() -> None:
    rng = np.random.default_rng(2)
    scores = _by_difficulty(rng)
    scores[(scores[:, 1] == 1) & (rng.random(len(scores)) < 0.5), 1] = np.nan
    (told,) = notices(_table(scores))
    assert "looks worse than it is" in told


def test_outcomes_missing_at_random_are_seldom_told() -> None:
    """At most one in a hundred by the test's level; three models have gaps in each of 200 tables."""
    warned = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = _by_difficulty(rng)
        scores[rng.random(scores.shape) < 0.2] = np.nan
        warned += bool(notices(_table(scores)))
    assert warned <= 6  # more than that happens by chance in one of 200 runs of this test


def test_shared_prompts_are_named_whatever_their_case_and_space() -> None:
    prompts = [f"prompt {i}" for i in range(10)] + ["Prompt  3", "PROMPT 3\n", "prompt 5"]
    (told,) = notices(_table(np.ones((13, 2)), prompts))
    assert told.startswith(
        "5 of 13 requests have a prompt that another one has too (2 prompts, the first of them 'prompt 3'"
    )
    assert "one part of every split" in told


@pytest.mark.parametrize(("groups", "parted"), [(["a", "b", "b"], True), (["a", "a", "b"], False)])
def test_a_group_that_parts_one_prompt_is_told(groups: list[str], parted: bool) -> None:
    table = _table(np.ones((3, 2)), ["same", "same", "other"])
    table = replace(table, queries=table.queries.assign(group=groups))
    told = notices(table)
    assert [("but not its group" in text and "too good" in text) for text in told] == [True] * parted
