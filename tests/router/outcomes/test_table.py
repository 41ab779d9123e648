from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes import read_outcomes, write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice

LONG = pd.DataFrame(
    {
        "query_id": ["a", "a", "b", "b", "c"],
        "prompt": ["one", "one", "two", "two", "three"],
        "task": ["t", "t", "u", "u", "t"],
        "model": ["m1", "m2", "m1", "m2", "m2"],
        "score": [1.0, 0.5, 0.0, np.nan, 0.25],
        "input_tokens": [3, 4, 5, 6, 7],
        "output_tokens": [10.0, 20.0, np.nan, 40.0, 50.0],
        "cost_usd": [1e-6, 2e-6, 3e-6, 4e-6, 5e-6],
    }
)


def _write(frame: pd.DataFrame, file: Path) -> Path:
    if file.suffix == ".csv":
        frame.to_csv(file, index=False)
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file, index=False)
    return file


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_long_files_hold_the_same_table_in_every_format(tmp_path: Path, suffix: str) -> None:
    table = read_outcomes(_write(LONG, tmp_path / f"outcomes{suffix}"))
    assert table.models == ("m1", "m2")
    assert table.prompts == ["one", "two", "three"]
    np.testing.assert_array_equal(table.scores, [[1.0, 0.5], [0.0, np.nan], [np.nan, 0.25]])
    np.testing.assert_array_equal(table.output_tokens, [[10, 20], [np.nan, 40], [np.nan, 50]])
    np.testing.assert_allclose(table.cost_usd[0], [1e-6, 2e-6])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_texts_stay_what_they_are_whatever_they_look_like(tmp_path: Path, suffix: str) -> None:
    texts = {"query_id": ["01", "1", "1.0", "1e3"], "prompt": ["NA", "null", "007", "1.50"]}
    frame = pd.DataFrame({**texts, "model": ["None", "None", "None", "1"], "task": "2024", "score": [1, 0, None, 1]})
    table = read_outcomes(_write(frame, tmp_path / f"outcomes{suffix}"))
    assert table.queries["query_id"].tolist() == texts["query_id"]
    assert table.prompts == texts["prompt"]
    assert table.models == ("None", "1")
    assert set(table.tasks) == {"2024"}
    np.testing.assert_array_equal(table.scores[:, 0], [1.0, 0.0, np.nan, np.nan])


@pytest.mark.parametrize("unknown", ["", "NaN", "NA", "null"])
def test_unknown_numbers_may_be_written_in_several_ways(tmp_path: Path, unknown: str) -> None:
    LONG.to_csv(tmp_path / "outcomes.csv", index=False, na_rep=unknown)
    table = read_outcomes(tmp_path / "outcomes.csv")
    np.testing.assert_array_equal(table.scores, [[1.0, 0.5], [0.0, np.nan], [np.nan, 0.25]])


def test_a_long_file_brings_prices_and_costs_follow(tmp_path: Path) -> None:
    prices = {"input_price_per_1M": [1, 2, None, 2, 2.0], "output_price_per_1M": [3, 4, 3, None, 4]}
    frame = LONG.assign(**prices, cost_usd=[np.nan, 9.0, 9.0, np.nan, np.nan])
    table = read_outcomes(_write(frame, tmp_path / "outcomes.csv"))
    assert table.prices == {"m1": ModelPrice(1, 3), "m2": ModelPrice(2, 4)}
    expected = [[33e-6, 9.0], [9.0, (6 * 2 + 40 * 4) / 1e6], [np.nan, (7 * 2 + 50 * 4) / 1e6]]
    np.testing.assert_allclose(table.cost_usd, expected)
    partly = read_outcomes(_write(frame.assign(output_price_per_1M=[3, None, 3, None, None]), tmp_path / "p.csv"))
    assert set(partly.prices) == {"m1"}


def test_a_model_called_like_a_number_keeps_its_price(tmp_path: Path) -> None:
    one = read_outcomes(_write(LONG.assign(model="01").iloc[[0, 2, 4]], tmp_path / "outcomes.csv"))
    priced = dataclasses.replace(one, prices={"01": ModelPrice(1, 2)})
    write_outcomes(priced, tmp_path / "folder")
    assert read_outcomes(tmp_path / "folder").prices == {"01": ModelPrice(1, 2)}


def test_a_saved_folder_is_read_back_unchanged(tmp_path: Path, outcomes: OutcomesTable) -> None:
    write_outcomes(outcomes, tmp_path / "folder")
    again = read_outcomes(tmp_path / "folder")
    assert again.data_hash() == outcomes.data_hash()
    assert again.prices == outcomes.prices
    np.testing.assert_array_equal(again.output_tokens, outcomes.output_tokens)


def test_a_folder_of_scores_alone_has_unknown_tokens_and_costs(tmp_path: Path) -> None:
    pd.DataFrame({"query_id": ["a", "b"], "prompt": ["x", "y"], "prompt_tokens": [3, 4]}).to_parquet(
        tmp_path / "queries.parquet"
    )
    pd.DataFrame({"query_id": ["b", "a"], "m": [0.0, 1.0]}).to_parquet(tmp_path / "scores.parquet")
    table = read_outcomes(tmp_path)
    np.testing.assert_array_equal(table.scores, [[1.0], [0.0]])
    np.testing.assert_array_equal(table.input_tokens, [[3.0], [4.0]])
    assert np.isnan(table.cost_usd).all()
    assert np.isnan(table.output_tokens).all()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"score": [1.0, 1.5, 0, 0, 0]}, ["line 3", "'score'", "1.5", "between 0 and 1"]),
        ({"score": ["1", "good", "0", "0", "0"]}, ["line 3", "'score'", "'good'", "a number"]),
        ({"cost_usd": [0, 0, -1, 0, 0]}, ["'cost_usd'", "line 4", "not negative"]),
        ({"model": ["m1", "m1", "m1", "m2", "m2"]}, ["line 3", "'a'", "'m1'", "one row"]),
        ({"prompt": ["one", "other", "two", "two", "three"]}, ["line 3", "'prompt'", "'a'", "different ids"]),
        ({"prompt": ["one", None, "two", "two", "three"]}, ["line 3", "'prompt'", "fill it in"]),
        ({"input_price_per_1M": 1.0}, ["lacks", "output_price_per_1M"]),
        (
            {"input_price_per_1M": 1.0, "output_price_per_1M": [1, 2, 1, 3, 2]},
            ["line 5", "'output_price_per_1M'", "3.0", "one price", "'m2'"],
        ),
        ({"input_price_per_1M": -1.0, "output_price_per_1M": 1.0}, ["line 2", "'input_price_per_1M'", "not negative"]),
    ],
)
def test_a_bad_cell_is_named_with_its_row_column_and_mend(
    tmp_path: Path, change: dict[str, list[object]], parts: list[str]
) -> None:
    file = _write(LONG.assign(**change), tmp_path / "bad.csv")
    with pytest.raises(OutcomesTableError) as caught:
        read_outcomes(file)
    for part in parts:
        assert part in caught.value.message


def test_missing_columns_files_and_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutcomesTableError, match=r"lacks the columns \['score'\]"):
        read_outcomes(_write(LONG.drop(columns="score"), tmp_path / "x.csv"))
    with pytest.raises(OutcomesTableError, match=r"has no queries\.parquet"):
        read_outcomes(tmp_path)
    with pytest.raises(OutcomesTableError, match="no outcomes at"):
        read_outcomes(tmp_path / "nothing.csv")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(OutcomesTableError, match="ending in"):
        read_outcomes(tmp_path / "x.txt")
    (tmp_path / "x.jsonl").write_text("{broken")
    with pytest.raises(OutcomesTableError, match=r"x\.jsonl, line 1 is not JSON"):
        read_outcomes(tmp_path / "x.jsonl")


def test_a_folder_with_a_stray_query_is_refused(tmp_path: Path, outcomes: OutcomesTable) -> None:
    write_outcomes(outcomes, tmp_path)
    costs = pd.read_parquet(tmp_path / "costs.parquet")
    costs.loc[0, "query_id"] = "nobody"
    costs.to_parquet(tmp_path / "costs.parquet")
    with pytest.raises(OutcomesTableError, match=r"costs\.parquet.*'nobody' is not in queries"):
        read_outcomes(tmp_path)


def test_the_split_is_a_partition_that_the_seed_decides(outcomes: OutcomesTable) -> None:
    parts = outcomes.split(seed=3)
    assert [len(part) for part in parts] == pytest.approx([420, 60, 120], abs=2)  # some rows share their prompt
    ids = np.concatenate([part.queries["query_id"] for part in parts])
    assert sorted(ids) == sorted(outcomes.queries["query_id"])
    again, other = outcomes.split(seed=3), outcomes.split(seed=4)
    assert parts[2].queries["query_id"].tolist() == again[2].queries["query_id"].tolist()
    assert parts[2].queries["query_id"].tolist() != other[2].queries["query_id"].tolist()
    with pytest.raises(OutcomesTableError, match="sum to 1"):
        outcomes.split(seed=0, fractions=(0.5, 0.1, 0.1))


def test_subsets_keep_rows_together(outcomes: OutcomesTable) -> None:
    rows = [5, 2, 9]
    part = outcomes.subset(rows)
    assert part.prompts == [outcomes.prompts[row] for row in rows]
    np.testing.assert_array_equal(part.scores, outcomes.scores[rows])
    mask = np.zeros(len(outcomes), dtype=bool)
    mask[[2, 5]] = True
    np.testing.assert_array_equal(outcomes.subset(mask).cost_usd, outcomes.cost_usd[[2, 5]])
    assert outcomes.select_models(["large", "small"]).models == ("large", "small")
    with pytest.raises(OutcomesTableError, match="unheard"):
        outcomes.select_models(["unheard"])


def test_the_hash_sees_every_part(outcomes: OutcomesTable) -> None:
    scores = outcomes.scores.copy()
    scores[0, 0] = 1 - scores[0, 0]
    changed = dataclasses.replace(outcomes, scores=scores)
    renamed = outcomes.queries.assign(prompt=["changed", *outcomes.prompts[1:]])
    hashes = {outcomes.data_hash(), changed.data_hash(), dataclasses.replace(outcomes, queries=renamed).data_hash()}
    assert len(hashes) == 3
    assert pickle.loads(pickle.dumps(outcomes)).data_hash() == outcomes.data_hash()


def test_tokens_and_costs_follow_from_one_another() -> None:
    queries = pd.DataFrame({"query_id": ["a", "b"], "task": ["", ""], "prompt": ["x", "y"]})
    unknown = np.full((2, 1), np.nan)
    cost_usd = np.array([[(100 * 1 + 30 * 2) / 1e6], [np.nan]])
    table = OutcomesTable(
        queries, ("m",), np.ones((2, 1)), unknown, np.array([[np.nan], [5.0]]), cost_usd, {"m": ModelPrice(1, 2)}
    )
    filled = table.with_counted_tokens([100, 10])
    np.testing.assert_allclose(filled.output_tokens, [[30.0], [5.0]])
    np.testing.assert_allclose(filled.cost_usd, [[160e-6], [20e-6]])
    with pytest.raises(OutcomesTableError, match="no price for"):
        dataclasses.replace(table, prices={}).with_counted_tokens([1, 1])


def test_arrays_of_the_wrong_shape_and_doubled_ids_are_refused(outcomes: OutcomesTable) -> None:
    with pytest.raises(OutcomesTableError, match=r"scores has shape \(600, 2\), expected \(600, 3\)"):
        dataclasses.replace(outcomes, scores=outcomes.scores[:, :2])
    queries = outcomes.queries.assign(query_id=["same"] * 600)
    with pytest.raises(OutcomesTableError, match=r"row 1.*'same' occurs more than once"):
        dataclasses.replace(outcomes, queries=queries)


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.2), (0.9, 0.1, 0.0), (0.5, 0.25, 0.25)])
def test_without_shared_prompts_the_split_is_that_of_a_permutation(
    outcomes: OutcomesTable, fractions: tuple[float, float, float]
) -> None:
    """What was recorded on such tables stays comparable."""
    table = outcomes.subset(np.unique(outcomes.prompts, return_index=True)[1])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(table))
        expected = np.split(order, np.round(np.cumsum(fractions)[:2] * len(table)).astype(int))
        for rows, part in zip(table.split_rows(seed, fractions), expected, strict=True):
            np.testing.assert_array_equal(rows, part)


@pytest.mark.parametrize("column", ["prompt", "group"])
def test_rows_of_one_prompt_or_group_are_never_parted(outcomes: OutcomesTable, column: str) -> None:
    labels = [f"Label {i % 150}" + " " * (i % 2) for i in range(600)]
    if column == "group":
        labels = [label.strip() for label in labels]
    table = dataclasses.replace(outcomes, queries=outcomes.queries.assign(**{column: labels}))
    sizes = []
    for seed in range(40):
        parts = table.split_rows(seed)
        assert sorted(np.concatenate(parts)) == list(range(600))
        seen = [{labels[row].strip() for row in part} for part in parts]
        assert sum(map(len, seen)) == len(set().union(*seen))
        sizes.append([len(part) for part in parts])
    np.testing.assert_allclose(np.mean(sizes, axis=0), [420, 60, 120], atol=12)
