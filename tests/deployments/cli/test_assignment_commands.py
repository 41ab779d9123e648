"""`apportion assign` and `apportion evaluate` on real, tiny artefacts."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from apportion.deployments.assigning import here
from apportion.deployments.cli import app
from apportion.router.outcomes import write_outcomes
from apportion.router.outcomes.table import OutcomesTable

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path, outcomes: OutcomesTable) -> Path:
    home = tmp_path_factory.mktemp("assign")
    write_outcomes(outcomes, home / "outcomes")
    trained = runner.invoke(
        app,
        [
            *("train", "--data", str(home / "outcomes"), "--out", str(home / "artefact")),
            *("--encoder", str(encoder_folder), "--estimator", "knn", "--device", "cpu", "--compare-rows", "0"),
        ],
    )
    assert trained.exit_code == 0, trained.output
    (home / "prompts.txt").write_text("\n".join(outcomes.prompts[:40]))
    return home


def run_assign(folder: Path, *options: str) -> dict[str, object]:
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "plan.csv")]
    result = runner.invoke(app, ["assign", *given, *options, "--json", "-"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_assign_keeps_the_budget_and_writes_the_plan(folder: Path) -> None:
    free = run_assign(folder)
    half = 0.5 * float(free["expected_cost_usd"])
    report = run_assign(folder, "--budget-usd", str(half))
    plan = pd.read_csv(folder / "plan.csv")
    assert len(plan) == 40
    assert plan["cost_usd"].sum() <= half * (1 + 1e-9)
    assert plan["cost_usd"].sum() == pytest.approx(report["expected_cost_usd"])
    assert plan["model"].value_counts().to_dict() == {k: v for k, v in report["requests_by_model"].items() if v}
    assert report["status"] == "optimal"
    assert report["expected_success"] < free["expected_success"]
    same = run_assign(folder, "--budget-per-request-usd", str(half / 40))
    assert same["expected_success"] == pytest.approx(report["expected_success"], abs=1e-3)


def test_assign_keeps_slots(folder: Path) -> None:
    report = run_assign(folder, "--slots", "large=3", "--slots", "medium=4", "--strategy", "greedy")
    assert report["requests_by_model"]["large"] <= 3
    assert report["requests_by_model"]["medium"] <= 4


LIMITS = """limits:
  - {name: host, models: [medium, large], share: 0.25}
  - {name: words, models: [large], of: tokens, at_most: 300}
"""


@pytest.mark.parametrize("strategy", ["mip", "greedy", "price", "robust_mip"])
def test_assign_keeps_limits_and_tells_their_use_and_price(folder: Path, strategy: str) -> None:
    (folder / "limits.yaml").write_text(LIMITS)
    options = ["--option", "kind=cost"] if strategy == "robust_mip" else []
    free = run_assign(folder, "--strategy", strategy, *options)
    report = run_assign(folder, "--limits", str(folder / "limits.yaml"), "--strategy", strategy, *options)
    placed, told = report["requests_by_model"], report["limits"]
    assert free["requests_by_model"]["medium"] + free["requests_by_model"]["large"] > 10 or strategy == "greedy"
    assert placed["medium"] + placed["large"] == told["host"]["used"] <= told["host"]["at_most"] == 10
    assert told["words"]["used"] <= told["words"]["at_most"] == 300
    if strategy == "mip":
        assert report["status"] == "optimal"
        assert "limits[host]" in report["binding"]
        assert told["host"]["price"] > 0
        assert report["expected_success"] < free["expected_success"]


def test_limits_hold_beside_a_deadline_and_with_best_effort(folder: Path) -> None:
    (folder / "few.yaml").write_text("limits: [{name: few, models: [medium, large], at_most: 2}]")
    limits = ("--limits", str(folder / "few.yaml"))
    speeds = [f"--tokens-per-s={model}=100" for model in ("small", "medium", "large")]
    timed = run_assign(folder, *limits, "--window", "10m", *speeds)
    assert timed["limits"]["few"]["used"] == 2
    (folder / "all.yaml").write_text("limits: [{name: all, at_most: 30}]")
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "plan.csv")]
    refused = runner.invoke(app, ["assign", *given, "--limits", str(folder / "all.yaml")])
    assert refused.exit_code == 2
    assert "limits: all is short by 10; raise it, or send fewer requests" in " ".join(refused.stderr.split())
    some = run_assign(folder, "--limits", str(folder / "all.yaml"), "--best-effort")
    assert (some["left_out"], some["limits"]["all"]["used"]) == (10, 30)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limits: []", "line 1: limits"),
        ("limits:\n- {name: a}", "give one of them"),
        ("limits:\n- {name: a, share: 0.5, of: tokens}", "share: is of requests"),
        ("limits:\n- {name: a, at_most: -1}", "line 2: limits.0.at_most"),
        (
            "limits:\n- {name: a, at_most: 1, models: [lrage]}",
            "line 2: limits.0.models: 'lrage' is no model here; the nearest",
        ),
        ("limits:\n- {name: a, at_most: 1}\n- {name: a, at_most: 2}", "line 3: limits.1.name: 'a' stands twice"),
        ("limit: []", "unknown field"),
    ],
)
def test_mistakes_in_a_file_of_limits_are_named(folder: Path, text: str, says: str) -> None:
    (folder / "wrong.yaml").write_text(text)
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "plan.csv")]
    refused = runner.invoke(app, ["assign", *given, "--limits", str(folder / "wrong.yaml")])
    assert refused.exit_code == 2
    assert says in " ".join(refused.stderr.split())


def test_a_long_csv_leads_to_an_assignment(tmp_path: Path, encoder_folder: Path, outcomes: OutcomesTable) -> None:
    long = long_frame(outcomes.subset(range(200)))
    (tmp_path / "prompts.txt").write_text("\n".join(outcomes.prompts[:20]))
    for name, frame in (("priced", long), ("unpriced", long.drop(columns=[c for c in long if "price" in c]))):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        arguments = ["--out", str(tmp_path / name), "--encoder", str(encoder_folder), "--estimator", "knn"]
        arguments += ["--compare-rows", "0"]
        trained = runner.invoke(app, ["train", "--data", str(tmp_path / f"{name}.csv"), *arguments, "--device", "cpu"])
        assert trained.exit_code == 0, trained.output
    given = [str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "plan.csv")]
    assigned = runner.invoke(app, ["assign", str(tmp_path / "priced"), *given])
    assert assigned.exit_code == 0, assigned.output
    assert (pd.read_csv(tmp_path / "plan.csv")["cost_usd"] > 0).all()
    refused = runner.invoke(app, ["assign", str(tmp_path / "unpriced"), *given])
    assert refused.exit_code == 2
    assert "input_price_per_1M" in refused.stderr


def long_frame(table: OutcomesTable) -> pd.DataFrame:
    """A row per query and model, with tokens and prices but without costs."""
    parts = [
        table.queries.assign(
            model=model,
            score=table.scores[:, j],
            input_tokens=table.input_tokens[:, j],
            output_tokens=table.output_tokens[:, j],
            input_price_per_1M=table.prices[model].input_usd_per_million,
            output_price_per_1M=table.prices[model].output_usd_per_million,
        )
        for j, model in enumerate(table.models)
    ]
    return pd.concat(parts)


def test_assign_names_the_models_that_limit(folder: Path) -> None:
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "plan.csv")]
    result = runner.invoke(app, ["assign", *given, "--slots", "large=3"])
    assert result.exit_code == 0, result.output
    assert "limited by slots[large]" in " ".join(result.stdout.split())


def test_every_format_gives_the_same_plan(folder: Path, outcomes: OutcomesTable) -> None:
    prompts = outcomes.prompts[:40]
    rows = pd.DataFrame({"prompt": prompts, "n": [2 if i == 3 else None for i in range(40)]})
    rows.to_csv(folder / "rows.csv", index=False)
    rows.to_parquet(folder / "rows.parquet")
    rows.to_json(folder / "rows.jsonl", orient="records", lines=True)
    bodies = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": {"prompt": p, "n": n}}
        for i, (p, n) in enumerate(zip(prompts, [2 if i == 3 else 1 for i in range(40)], strict=True))
    ]
    (folder / "batch.jsonl").write_text("\n".join(map(json.dumps, bodies)))
    plans = []
    outs = {"rows.csv": "a.csv", "rows.parquet": "b.parquet", "rows.jsonl": "c.csv", "batch.jsonl": "d.csv"}
    for name, out in outs.items():
        given = [str(folder / "artefact"), str(folder / name), "--out", str(folder / out), "--budget-usd", "0.001"]
        result = runner.invoke(app, ["assign", *given])
        assert result.exit_code == 0, result.output
        read = pd.read_csv if out.endswith(".csv") else pd.read_parquet
        plans.append(read(folder / out))
    assert plans[0]["prompt"].tolist() == list(prompts)
    for plan in plans[1:]:
        pd.testing.assert_frame_equal(plan, plans[0])


def test_a_run_that_is_cut_off_goes_on_with_what_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "PART_ROWS", 16)
    kept = folder / "kept"
    whole = run_assign(folder, "--predictions", str(kept))
    parts = sorted((kept / "parts").iterdir())
    assert len(parts) == 3
    parts[1].unlink()
    before = [part.stat().st_mtime_ns for part in (parts[0], parts[2])]
    again = run_assign(folder, "--predictions", str(kept), "--budget-usd", "0.001")
    assert sorted((kept / "parts").iterdir()) == parts
    assert [part.stat().st_mtime_ns for part in (parts[0], parts[2])] == before
    assert again["requests"] == whole["requests"]
    other = folder / "other.txt"
    other.write_text("What is 1 plus 1?")
    given = [str(folder / "artefact"), str(other), "--out", str(folder / "other.csv"), "--predictions", str(kept)]
    refused = runner.invoke(app, ["assign", *given])
    assert refused.exit_code == 2
    assert "holds predictions of another file" in " ".join(refused.stderr.split())


def test_a_deadline_limits_models_by_their_speed(folder: Path) -> None:
    free = run_assign(folder)
    speeds = [f"--tokens-per-s={model}=1" for model in ("small", "medium", "large")]
    tight = run_assign(folder, "--window", "3m", *speeds)
    assert tight["expected_s"] <= 180 * 1.01
    assert tight["expected_success"] < free["expected_success"]
    some = run_assign(folder, "--window", "1m", "--best-effort", *speeds)
    assert 0 < some["left_out"] < 40
    plan = pd.read_csv(folder / "plan.csv")
    assert plan["model"].isna().sum() == some["left_out"]
    assert plan["cost_usd"].isna().sum() == some["left_out"]


def test_variants_share_their_models_slots_and_time(folder: Path) -> None:
    variants = [{"name": "fast", "prior_success": 0.5, "max_tokens": 4}, {"name": "think", "prior_success": 0.9}]
    price = {"input_usd_per_million": 0.01, "output_usd_per_million": 0.01, "source": "nowhere"}
    models = folder / "variants.json"
    models.write_text(
        json.dumps({"models": [{"name": "small", **price}, {"name": "new", **price, "variants": variants}]})
    )
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--models", str(models), "--out"]

    def planned(*options: str) -> dict[str, Any]:
        result = runner.invoke(app, ["assign", *given, str(folder / "plan.csv"), *options, "--json", "-"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    few = planned("--slots", "new=6")["requests_by_model"]
    assert few["new@fast"] + few["new@think"] == 6
    every = planned("--window", "60m", "--tokens-per-s", "new=1000")
    assert every["requests_by_model"] == {"small": 0, "new@fast": 0, "new@think": 40}
    part = planned("--window", "1m", "--tokens-per-s", f"new={math.ceil(every['expected_s'] * 1000 / 60 * 0.7)}")
    assert part["binding"] == ["time[new]"]
    assert min(part["requests_by_model"][name] for name in ("new@fast", "new@think")) > 0
    assert part["expected_s"] <= 60
    wrong = runner.invoke(
        app, ["assign", *given, str(folder / "no.csv"), "--window", "1h", "--tokens-per-s", "new@fast=9"]
    )
    assert wrong.exit_code == 2
    assert "variants of a model share its engines; write new=N for all of them" in " ".join(wrong.stderr.split())


def test_settings_reach_the_strategy(folder: Path) -> None:
    for model in ("small", "large"):
        report = run_assign(folder, "--strategy", "static", "--option", f"model={model}")
        assert report["requests_by_model"][model] == 40
    low, high = (run_assign(folder, "--strategy", "threshold", "--option", f"target={t}") for t in ("0", "1"))
    assert low["requests_by_model"]["small"] == 40
    assert low["expected_success"] < high["expected_success"]
    cheap = run_assign(folder, "--strategy", "per_query", "--option", "price=1e12")
    assert cheap["requests_by_model"]["small"] == 40
    half = str(0.5 * float(run_assign(folder)["expected_cost_usd"]))
    sure = run_assign(
        folder, "--strategy", "robust_mip", "--option", "kind=cost", "--option", "confidence=0.99", "--budget-usd", half
    )
    assert sure["expected_cost_usd"] + 2.32 * sure["cost_std_usd"] <= float(half)


def test_a_model_without_outcomes_gets_what_its_stated_success_is_worth_or_nothing(folder: Path) -> None:
    models = folder / "models.json"
    for prior, expected in ((None, 0), (1.0, 40)):
        fields = {"input_usd_per_million": 0.01, "output_usd_per_million": 0.01, "source": "nowhere"}
        described = [{"name": name, **fields} for name in ("large", "new", "small")]
        described[1]["prior_success"] = prior
        models.write_text(json.dumps({"models": described}))
        given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "plan.csv")]
        result = runner.invoke(app, ["assign", *given, "--models", str(models), "--json", "-"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["requests_by_model"]["new"] == expected
        assert "the predictor does not know new" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "1h"), "needs --tokens-per-s"),
        (("--window", "1d", "--tokens-per-s", "small=9"), "'1d' is no window of time"),
        (("--tokens-per-s", "small=9"), "says nothing without --window"),
        (("--window", "1h", "--tokens-per-s", "small=9", "--slots", "small=9"), "leave one out"),
        (("--engine", "spark"), "use local, ray or ray:HOST:PORT"),
        (("--slots", "large"), "write MODEL=N"),
        (("--slots", "huge=3"), "a model of"),
        (("--budget-usd", "1", "--budget-per-request-usd", "1"), "not both"),
        (("--strategy", "best"), "strategy 'best': unknown"),
        (("--strategy", "greedy", "--gap", "0.01"), "'greedy': no option 'gap'"),
        (("--option", "quantile=0.1"), "'mip': no option 'quantile'; it takes gap, time_limit_s"),
        (("--gap", "0.1", "--option", "gap=0.2"), "gap: given twice"),
        (("--option", "rows=x"), "'mip': no option 'rows'"),
        (("--strategy", "static", "--option", "model=huge"), "use a model of small, medium, large"),
        (("--strategy", "threshold", "--option", "target"), "write KEY=VALUE"),
        (
            ("--strategy", "threshold", "--option", "target=high"),
            "target: input should be a valid number",
        ),
        (("--strategy", "robust_mip", "--option", "kind=mild"), "input should be 'quantile', 'gamma' or 'cost'"),
        (("--strategy", "robust_mip", "--option", "quantile=2"), "quantile is 2.0; give a number between 0 and 1"),
    ],
)
def test_assign_says_what_is_wrong(folder: Path, options: tuple[str, ...], message: str) -> None:
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "none.csv")]
    # An encoder that is nowhere: what is wrong with the options is found before it would be loaded.
    result = runner.invoke(app, ["assign", *given, "--encoder", str(folder / "nowhere"), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (folder / "none.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget-usd", "1e-12"), "budget: 1e-12 USD do not suffice; raise the budget to"),
        (("--window", "1m", "--tokens-per-s", "small=1"), "60 s do not suffice; allow"),
    ],
)
def test_assign_says_what_would_do(folder: Path, options: tuple[str, ...], message: str) -> None:
    given = [str(folder / "artefact"), str(folder / "prompts.txt"), "--out", str(folder / "none.csv")]
    result = runner.invoke(app, ["assign", *given, *options])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (folder / "none.csv").exists()


def test_evaluate_writes_rows_and_draws(folder: Path, encoder_folder: Path) -> None:
    pytest.importorskip("matplotlib")
    result = runner.invoke(
        app,
        [
            *("evaluate", "--data", str(folder / "outcomes"), "--encoder", str(encoder_folder), "--device", "cpu"),
            *("--seeds", "2", "--estimator", "knn-5", "--arm", "mip", "--arm", "random_mixture", "--compare-rows", "0"),
            *("--batch-size", "60", "--json", str(folder / "rows.json"), "--plot", str(folder / "frontier.png")),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "random_mixture" in result.stdout, "a file leaves the table for people"
    assert "knn-5: score over the best single model's" in result.stdout
    assert "USD a request" in result.stdout
    assert re.search(r"routing by mip on knn-5 scores 0\.\d+ where \w+, the best single model", result.stdout)
    assert "95 % interval" in result.stdout
    rows = json.loads((folder / "rows.json").read_text())
    assert {row["arm"] for row in rows} == {"mip", "random_mixture", "single:small", "single:medium", "single:large"}
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(0 <= row["score"] <= 1 for row in rows if row["score"] is not None)
    assert (folder / "frontier.png").stat().st_size > 10_000


def test_evaluate_derives_the_costs_of_a_set_that_records_none(tmp_path: Path, encoder_folder: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "outputs_base").mkdir()
    items = [{"id": i, "question": "x " * (i % 9 + 1), "choices": {"A": "yes", "B": "no"}} for i in range(205)]
    (tmp_path / "data" / "mmlu_10k.json").write_text(json.dumps([item | {"answer": "A"} for item in items]))
    for model, worst in (("Qwen-1_8B", 4), ("Qwen-72B", 8), ("without-a-price", 6)):
        rows = [{"id": i, "logits_options": [0.5, i % 9 > worst, 0, 0, 0, 0]} for i in range(205)]
        (tmp_path / "outputs_base" / f"{model}_mmlu_10k_base_icl1.pkl").write_bytes(pickle.dumps(rows))
    result = runner.invoke(
        app,
        [
            *("evaluate", "--data", f"uncertainty-bench:{tmp_path}", "--encoder", str(encoder_folder), "--json", "-"),
            *("--seeds", "1", "--estimator", "knn-5", "--arm", "greedy", "--device", "cpu", "--compare-rows", "0"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "1 of 3 models are left out (without-a-price), since nothing is known" in " ".join(result.stderr.split())
    rows = json.loads(result.stdout)
    assert {row["arm"] for row in rows} == {"single:Qwen-1_8B", "single:Qwen-72B", "greedy"}
    assert all(row["cost_usd"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("plot", "message"),
    [("frontier.xyz", "give a name that ends in one of"), ("absent/frontier.png", "there is no folder absent")],
)
def test_evaluate_refuses_a_plot_that_it_cannot_write_before_the_work(plot: str, message: str) -> None:
    pytest.importorskip("matplotlib")
    result = runner.invoke(app, ["evaluate", "--data", "nothing", "--encoder", "nothing", "--plot", plot])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_evaluate_prints_a_table(folder: Path, encoder_folder: Path, outcomes: OutcomesTable) -> None:
    result = runner.invoke(
        app,
        [
            *("evaluate", "--data", str(folder / "outcomes"), "--encoder", str(encoder_folder), "--device", "cpu"),
            *("--seeds", "1", "--estimator", "knn-5", "--arm", "greedy"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "greedy" in result.stdout
    assert "ECE" in result.stdout
    train, validation, _ = outcomes.split_rows(0)
    seen = len(train) + len(validation)
    assert f"Encoders on {seen} training rows" in result.stdout, "those of the test are left out"
    assert f"used here is {encoder_folder}" in result.stdout
