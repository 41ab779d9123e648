from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from apportion.deployments.cli import app
from apportion.router.outcomes import write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.prompts import read_requests
from apportion.router.records.schema import FEEDBACK, PROMPTS, REQUESTS
from apportion.router.records.store import Store
from apportion.router.traits import PLAIN
from tests.samples import make_outcomes

runner = CliRunner()


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path, outcomes: OutcomesTable) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_outcomes(outcomes.select_models(["small", "medium"]), folder / "outcomes")
    result = runner.invoke(
        app,
        [
            *("train", "--data", str(folder / "outcomes"), "--out", str(folder / "artefact")),
            *("--encoder", str(encoder_folder), "--members", "2", "--device", "cpu"),
            *("--compare-rows", "0", "--json", str(folder / "train.json")),
        ],
    )
    assert result.exit_code == 0, result.output
    return folder / "artefact"


def test_train_reports_models_and_calibration(artefact: Path) -> None:
    report = json.loads((artefact.parent / "train.json").read_text())
    assert list(report["models"]) == ["small", "medium"]
    assert [row["split"] for row in report["calibration"]] == ["calibration", "test"]
    assert (artefact / "weights.safetensors").is_file()
    assert report["cascades"] is None


def test_train_and_evaluate_say_what_cascades_are_worth(
    outcomes: OutcomesTable, encoder_folder: Path, tmp_path: Path
) -> None:
    told = -np.exp(-3.5 * outcomes.scores)
    signals = np.stack([told, 3 * told, 2 * told, -told], axis=-1)
    write_outcomes(replace(outcomes, signals=signals), tmp_path / "outcomes")
    common = ("--data", str(tmp_path / "outcomes"), "--encoder", str(encoder_folder), "--device", "cpu")
    quick = ("--estimator", "knn", "--compare-rows", "0", "--calibration-share", "0.4")

    trained = runner.invoke(app, ["train", *common, *quick, "--out", str(tmp_path / "artefact")])
    assert trained.exit_code == 0, trained.output
    assert re.search(r"cascade \w+ > \w+: offered, at equal spend it gains \+", trained.output)

    measured = runner.invoke(
        app, ["evaluate", *common, "--compare-rows", "0", "--estimator", "knn", "--arm", "greedy", "--seeds", "2"]
    )
    assert measured.exit_code == 0, measured.output
    assert "no cascades: 60 held-out requests have all outcomes, 100 are needed" in measured.output


def test_predict_prints_one_row_a_model(artefact: Path) -> None:
    result = runner.invoke(app, ["predict", str(artefact), "What is 12 plus 7?", "--json", "-"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["prompt"] == "What is 12 plus 7?"
    assert set(row["models"]) == {"small", "medium"}
    assert 0 < row["models"]["small"]["success"] < 1
    assert row["models"]["medium"]["cost_usd"] > row["models"]["small"]["cost_usd"] > 0
    table = runner.invoke(app, ["predict", str(artefact), "What is 12 plus 7?"])
    assert "medium" in table.stdout
    assert f"{row['models']['medium']['success']:.3f}" in table.stdout


def test_json_in_a_file_leaves_the_table_and_json_alone_silences_it(artefact: Path, tmp_path: Path) -> None:
    command, file = ["predict", str(artefact), "What is 12 plus 7?"], tmp_path / "rows.json"
    table, both, alone = (
        runner.invoke(app, [*command, *json_option]).stdout
        for json_option in ([], ["--json", str(file)], ["--json", "-"])
    )
    assert both == table
    assert json.loads(file.read_text()) == json.loads(alone)


def test_predict_tells_the_lifted_success_of_the_best_single_model(artefact: Path, tmp_path: Path) -> None:
    """An artefact whose other model can never count as better: it is lifted wherever the other one promises more."""
    proud = shutil.copytree(artefact, tmp_path / "proud")
    described = json.loads((proud / "artefact.json").read_text())
    described["incumbent"] = "small"
    for model in described["models"]:
        model["margin"] = float(model["name"] != "small")
    (proud / "artefact.json").write_text(json.dumps(described))
    command = ["predict", str(proud), "What is 12 plus 7?"]
    (row,) = json.loads(runner.invoke(app, [*command, "--json", "-"]).stdout)
    small, medium = row["models"]["small"], row["models"]["medium"]
    assert medium["calibrated_success"] == medium["success"]
    assert small["calibrated_success"] < small["success"] == pytest.approx(medium["success"])
    shown = runner.invoke(app, command).stdout
    assert "calibrated" in shown
    assert f"{small['calibrated_success']:.3f}" in shown


def test_prompts_are_printed_as_they_are(artefact: Path) -> None:
    prompt = "[INST] What is 12 plus 7? [/INST] :smile:"
    result = runner.invoke(app, ["predict", str(artefact), prompt])
    assert result.exit_code == 0, result.output
    assert prompt in " ".join(result.stdout.split())


def test_predict_reads_files_of_prompts_and_chats(artefact: Path, tmp_path: Path) -> None:
    lines, chats = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("What is 12 plus 7?\n\nSpell the word ab backwards.\n")
    rows = [{"messages": [{"role": "user", "content": "What is 12 plus 7?"}]}, {"prompt": "x"}]
    chats.write_text("\n".join(map(json.dumps, rows)))
    found = [
        json.loads(runner.invoke(app, ["predict", str(artefact), "--file", str(f), "--json", "-"]).stdout)
        for f in (lines, chats)
    ]
    assert [row["prompt"] for row in found[0]] == ["What is 12 plus 7?", "Spell the word ab backwards."]
    success = [rows[0]["models"]["small"]["success"] for rows in found]
    np.testing.assert_allclose(success[0], success[1], atol=1e-6)


def test_calibrate_writes_a_new_artefact(artefact: Path, tmp_path: Path) -> None:
    write_outcomes(make_outcomes(200, seed=3), tmp_path / "fresh")
    out = tmp_path / "calibrated"
    result = runner.invoke(app, ["calibrate", str(artefact), "--data", str(tmp_path / "fresh"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "calibration" in result.stdout
    described = [json.loads((folder / "artefact.json").read_text()) for folder in (artefact, out)]
    assert len(described[1]["data_sha256"]) == len(described[0]["data_sha256"]) + 1
    assert described[1]["calibration"][0]["rows"] == 200


def _records(folder: Path, n: int, luck: float) -> str:
    """Answers of both models, judged; of good ones only this share is good any more."""
    table, random = make_outcomes(n, seed=5).select_models(["small", "medium"]), np.random.default_rng(1)
    store = Store.open(str(folder))
    names, now = [f"r{i:04}" for i in range(n)], datetime.now(UTC)
    chosen = random.integers(2, size=n).tolist()
    good = table.scores[np.arange(n), chosen] * (random.random(n) < luck)
    times = [now + timedelta(milliseconds=i) for i in range(n)]
    requests: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    told = zip(names, times, chosen, good.tolist(), table.prompts, strict=True)
    for name, time, j, score, prompt in told:
        requests.append({"id": name, "time": time, "chosen": table.models[j], "ending": "answered", "status": 200})
        said.append({"id": name, "time": time, "key": "good", "number": score})
        asked.append({"id": name, "time": time, "prompt": prompt, **PLAIN._asdict()})
    for kind, rows in ((REQUESTS, requests), (FEEDBACK, said), (PROMPTS, asked)):
        store.append(kind, pa.Table.from_pylist(rows, kind.schema), now)
    return str(folder)


@pytest.mark.parametrize(("luck", "admitted"), [(0.5, True), (1.0, False)])
def test_calibrate_on_records_writes_only_what_is_certainly_no_loss(
    artefact: Path, tmp_path: Path, luck: float, admitted: bool
) -> None:
    records, out = _records(tmp_path / "records", 700, luck), tmp_path / "candidate"
    options = ["calibrate", str(artefact), "--records", records, "--out", str(out), "--device", "cpu"]
    result = runner.invoke(app, [*options, "--json", str(tmp_path / "told.json")])

    told = json.loads((tmp_path / "told.json").read_text())
    assert (result.exit_code, told["admitted"], out.exists()) == (0 if admitted else 1, admitted, admitted)
    assert told["comparison"]["answers"] == 140
    if admitted:
        described = json.loads((out / "artefact.json").read_text())
        assert described["calibration"][0]["rows"] == 560
        assert len(described["reference"]["edges"]) == 2


def test_calibrate_needs_one_source_and_a_place_for_what_records_make(artefact: Path, tmp_path: Path) -> None:
    for options, said in ((), "--data, --records"), (("--records", str(tmp_path)), "--out: missing"):
        result = runner.invoke(app, ["calibrate", str(artefact), *options])
        assert result.exit_code == 2
        assert said in result.output


def test_train_adds_models_to_an_artefact(artefact: Path, tmp_path: Path) -> None:
    write_outcomes(make_outcomes(200, seed=4), tmp_path / "more")
    out = tmp_path / "grown"
    arguments = ["train", "--data", str(tmp_path / "more"), "--out", str(out), "--add-to", str(artefact)]
    result = runner.invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    names = [model["name"] for model in json.loads((out / "artefact.json").read_text())["models"]]
    assert names == ["small", "medium", "large"]


def test_static_vectors_are_trained_compared_and_stored(
    encoder_folder: Path, outcomes: OutcomesTable, tmp_path: Path
) -> None:
    write_outcomes(outcomes, tmp_path / "outcomes")
    command = ["train", "--data", str(tmp_path / "outcomes"), "--out", str(tmp_path / "artefact"), "--device", "cpu"]
    command += ["--encoder", f"static:{encoder_folder}", "--estimator", "knn", "--vocabulary", "40"]
    result = runner.invoke(app, [*command, "--compare-rows", "300", "--json", str(tmp_path / "told.json")])
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["encoder"] == f"static:{encoder_folder}"
    sources = [f"{kind}{encoder_folder}" for kind in ("static:", "", "both:")]
    assert [one["encoder"] for one in told["encoders"]["candidates"]] == sources
    assert told["encoders"]["rows"] == 300
    assert told["encoders"]["chosen"] in sources
    assert f"Best choice: {told['encoders']['chosen']}" in result.stdout
    predicted = runner.invoke(app, ["predict", str(tmp_path / "artefact"), "What is 12 plus 7?", "--json", "-"])
    assert predicted.exit_code == 0, predicted.output
    moved = runner.invoke(app, ["predict", str(tmp_path / "artefact"), "x", "--encoder", str(encoder_folder)])
    assert moved.exit_code == 2
    assert "holds static vectors and needs no other encoder" in moved.stderr


def test_without_costs_encoders_are_not_compared_which_is_told(
    encoder_folder: Path, outcomes: OutcomesTable, tmp_path: Path
) -> None:
    unknown = np.full(outcomes.scores.shape, np.nan)
    write_outcomes(replace(outcomes, cost_usd=unknown, prices={}), tmp_path / "outcomes")
    command = ["train", "--data", str(tmp_path / "outcomes"), "--out", str(tmp_path / "artefact"), "--device", "cpu"]
    result = runner.invoke(app, [*command, "--encoder", str(encoder_folder), "--estimator", "knn"])
    assert result.exit_code == 0, result.output
    assert "encoders are not compared: models: only 0 have score and cost" in " ".join(result.stderr.split())


def test_an_encoder_that_has_moved_is_named(artefact: Path, encoder_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(artefact, tmp_path / "moved")
    described = json.loads((moved / "artefact.json").read_text())
    described["encoder"]["source"] = str(tmp_path / "gone")
    (moved / "artefact.json").write_text(json.dumps(described))
    write_outcomes(make_outcomes(200, seed=4), tmp_path / "data")
    shared = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for command in (["calibrate", str(moved)], ["train", "--add-to", str(moved)]):
        assert "there is no such folder" in runner.invoke(app, [*command, *shared]).stderr
        result = runner.invoke(app, [*command, *shared, "--encoder", str(encoder_folder)])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "nowhere", "x"], "has no artefact.json"),
        (["predict", "[old]", "x"], "[old]: it has no artefact.json"),
        (["predict", "nowhere"], "either one prompt or --file"),
        (["predict", "nowhere", "--file", "absent.txt"], "absent.txt: there is no such file"),
        (["train", "--data", "absent", "--out", "x"], "no outcomes at absent"),
        (["calibrate", "nowhere", "--data", "absent"], "no outcomes at absent"),
        (["train", "--data", "a", "--out", "x", "--add-to", "y", "--estimator", "head"], "--estimator: --add-to keeps"),
        (["train", "--data", "a", "--out", "x", "--add-to", "y", "--members", "8"], "--members: --add-to keeps"),
        (["train", "--data", "a", "--out", "x", "--add-to", "y", "--neighbours", "3"], "--neighbours: --add-to keeps"),
        (["train", "--data", "a", "--out", "x", "--add-to", "y", "--test-share", "0"], "--test-share: --add-to keeps"),
        (
            ["train", "--data", "a", "--out", "x", "--add-to", "y", "--calibration-share", "0.1"],
            "--calibration-share: --add-to keeps",
        ),
        (["train", "--data", "a", "--out", "x", "--add-to", "y", "--vocabulary", "9"], "--vocabulary: --add-to keeps"),
        (
            ["train", "--data", "a", "--out", "x", "--add-to", "y", "--compare-rows", "9"],
            "--compare-rows: --add-to keeps",
        ),
        (["train", "--data", "a", "--out", "x", "--neighbours", "3"], "the estimator head has no such setting"),
        (
            ["train", "--data", "a", "--out", "x", "--encoder", "b", "--vocabulary", "9"],
            "--vocabulary: b has no static vectors",
        ),
    ],
)
def test_mistakes_are_one_clean_message(arguments: list[str], said: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_broken_lines_of_a_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    for text, said in (('{"prompt": "x"}\n{oops', "line 2 is not JSON"), ('{"text": "x"}', "line 1: give")):
        file.write_text(text)
        result = runner.invoke(app, ["predict", "nowhere", "--file", str(file)])
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", ["train", "calibrate", "predict"])
def test_help_explains_and_shows_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.stdout


def test_a_prompt_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    odd = "first\u2028second\x0cthird\x85fourth"
    file, text = tmp_path / "prompts.jsonl", tmp_path / "prompts.txt"
    file.write_text(json.dumps({"prompt": odd}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    text.write_text(f"{odd}\n\nlast\n", encoding="utf-8")
    assert [request.text for request in read_requests(file)] == [odd]
    assert [request.text for request in read_requests(text)] == [odd, "last"]
