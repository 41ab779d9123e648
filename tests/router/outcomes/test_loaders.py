from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes import write_outcomes
from apportion.router.outcomes.loaders import load_outcomes
from apportion.router.outcomes.loaders.routerbench import load_routerbench
from apportion.router.outcomes.loaders.sprout import load_sprout
from apportion.router.outcomes.loaders.uncertainty_bench import load_uncertainty_bench
from apportion.router.outcomes.table import OutcomesTable


def _routerbench_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": ["mmlu.1", "gsm8k.2"],
            "prompt": ["['What?']", "['How many?']"],
            "eval_name": ["mmlu", "grade-school-math"],
            "gpt-4-1106-preview": [1.0, 0.25],
            "mistralai/mistral-7b-chat": [0.0, np.nan],
            "gpt-4-1106-preview|model_response": ["A", "4"],
            "mistralai/mistral-7b-chat|model_response": ["B", ""],
            "gpt-4-1106-preview|total_cost": [1e-3, 2e-3],
            "mistralai/mistral-7b-chat|total_cost": [1e-5, 2e-5],
            "oracle_model_to_route_to": ["gpt-4-1106-preview", "no_model_correct"],
        }
    ).astype({"sample_id": object, "prompt": object, "eval_name": object})


@pytest.mark.parametrize("name", ["routerbench_0shot.pkl", "rows.csv", "rows.parquet"])
def test_routerbench_is_read_from_each_format(tmp_path: Path, name: str) -> None:
    frame, file = _routerbench_frame(), tmp_path / name
    if file.suffix == ".pkl":
        frame = frame.astype(object)
        frame.columns = pd.Index(frame.columns.tolist(), dtype=object)
        frame.to_pickle(file)
    elif file.suffix == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file, index=False)
    table = load_outcomes(f"routerbench:{file if file.suffix != '.pkl' else tmp_path}")
    assert table.models == ("gpt-4-1106-preview", "mistralai/mistral-7b-chat")
    np.testing.assert_array_equal(table.scores, [[1.0, 0.0], [0.25, np.nan]])
    np.testing.assert_allclose(table.cost_usd[1], [2e-3, 2e-5])
    assert table.tasks.tolist() == ["mmlu", "grade-school-math"]
    filled = table.with_counted_tokens([10, 20])
    np.testing.assert_allclose(filled.output_tokens[0, 0], (1e-3 - 10 * 10e-6) / 30e-6)


def test_routerbench_texts_stay_what_they_are(tmp_path: Path) -> None:
    texts = {"sample_id": ["01", "1"], "prompt": ["NA", "null"], "eval_name": ["7", "07"]}
    _routerbench_frame().assign(**texts).to_csv(tmp_path / "rows.csv", index=False)
    queries = load_routerbench(str(tmp_path / "rows.csv")).queries
    assert queries["query_id"].tolist() == texts["sample_id"]
    assert queries["prompt"].tolist() == texts["prompt"]
    assert queries["task"].tolist() == texts["eval_name"]


class _Harmful:
    def __reduce__(self):
        return (getattr, (ZeroDivisionError, "this_must_never_be_asked_for"))


def test_a_pickle_that_names_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "routerbench_0shot.pkl"
    file.write_bytes(pickle.dumps(_Harmful()))
    with pytest.raises(OutcomesTableError, match=r"builtins\.getattr, which data has no need of"):
        load_routerbench(str(file))
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(OutcomesTableError, match="holds a list"):
        load_routerbench(str(file))


def test_sprout_is_read_with_its_token_counts(tmp_path: Path) -> None:
    record = {"score": 0.8, "num_input_tokens": 100, "num_output_tokens": 50, "response": "x"}
    frame = pd.DataFrame(
        {
            "key": [1, 2],
            "dataset": ["math", "rag"],
            "prompt": ["one", "two"],
            "golden_answer": ["1", "2"],
            "openai-gpt-4o": [record, {**record, "score": 0.2}],
            "a-model-without-price": [record, None],
        }
    )
    frame.iloc[:1].to_parquet(tmp_path / "train-00000.parquet")
    frame.iloc[1:].to_parquet(tmp_path / "validation-00000.parquet")
    table = load_sprout(str(tmp_path))
    assert table.models == ("openai-gpt-4o", "a-model-without-price")
    np.testing.assert_array_equal(table.scores, [[0.8, 0.8], [0.2, np.nan]])
    np.testing.assert_allclose(table.cost_usd[:, 0], (100 * 2.5 + 50 * 10) / 1e6)
    assert np.isnan(table.cost_usd[:, 1]).all()
    frame[["prompt"]].to_parquet(tmp_path / "other.parquet")
    with pytest.raises(OutcomesTableError, match="not of SPROUT's form"):
        load_sprout(str(tmp_path / "other.parquet"))


def _uncertainty_bench(root: Path) -> None:
    (root / "data").mkdir()
    (root / "outputs_base").mkdir()
    items = [
        {"id": i, "question": f"Question {i}?", "choices": {"A": "yes", "B": "no"}, "answer": "B"} for i in range(12)
    ]
    (root / "data" / "mmlu_10k.json").write_text(json.dumps(items))
    for style, best in (("base", 1), ("shared", 1), ("task", 0)):
        rows = [{"id": i, "logits_options": np.eye(6)[best if i != 11 else 0]} for i in range(12)]
        name = f"Qwen-1_8B_mmlu_10k_{style}_icl1.pkl"
        (root / "outputs_base" / name).write_bytes(pickle.dumps(rows))


def test_uncertainty_bench_scores_are_means_over_prompt_styles(tmp_path: Path) -> None:
    _uncertainty_bench(tmp_path)
    table = load_uncertainty_bench(str(tmp_path))
    assert table.models == ("Qwen-1_8B",)
    assert table.queries["query_id"].tolist() == [f"mmlu_10k/{i}" for i in (0, 2, 4, 6, 8, 10, 11)]
    np.testing.assert_allclose(table.scores[:, 0], [2 / 3] * 6 + [0.0])
    assert table.prompts[0] == "Question 0?\nA. yes\nB. no"
    filled = table.with_counted_tokens(np.full(7, 99))
    np.testing.assert_allclose(filled.cost_usd, 100 * 0.18 / 1e6)


def test_a_pickle_of_logits_may_hold_no_frames(tmp_path: Path) -> None:
    _uncertainty_bench(tmp_path)
    name = "Qwen-1_8B_mmlu_10k_base_icl1.pkl"
    (tmp_path / "outputs_base" / name).write_bytes(pickle.dumps(pd.DataFrame({"a": [1]})))
    with pytest.raises(OutcomesTableError, match="pandas"):
        load_uncertainty_bench(str(tmp_path))


def test_what_cannot_be_found_or_is_no_kind_of_outcomes_is_said(tmp_path: Path, outcomes: OutcomesTable) -> None:
    with pytest.raises(OutcomesTableError, match="nothing at"):
        load_outcomes(f"sprout:{tmp_path}/absent")
    with pytest.raises(OutcomesTableError, match=r"holds no routerbench_5shot\.pkl"):
        load_routerbench(str(tmp_path), shots=5)
    with pytest.raises(OutcomesTableError, match="'nonsense' is no kind of outcomes"):
        load_outcomes("nonsense:folder")
    write_outcomes(outcomes, tmp_path / "own")
    assert load_outcomes(tmp_path / "own").data_hash() == outcomes.data_hash()
