"""The benchmark of cascades, on a small table with signals and one without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from apportion.router.evaluation import Setting
from apportion.router.outcomes import write_outcomes
from benchmarks.cascades import report
from benchmarks.cascades.follow import curve, follow
from benchmarks.cascades.jobs import Job
from benchmarks.cascades.run import few_models, losses, run
from benchmarks.cascades.signals import stated
from benchmarks.experiments.cache import Cache
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context
from benchmarks.load.report import write
from tests.samples import make_outcomes, save_encoder, with_signals


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("cascades")
    write_outcomes(make_outcomes(300, seed=3), folder / "data" / "toy")
    write_outcomes(with_signals(make_outcomes(300, seed=4), apart=3.0), folder / "zoo")
    (folder / "encoder").mkdir()
    encoder = save_encoder(folder / "encoder", seed=0)
    return Context(folder / "data", Cache(folder / "cache"), str(encoder), seeds=2, smoke=True)


def test_both_stages_are_planned_and_paid(context: Context) -> None:
    table = with_signals(make_outcomes(1_200, seed=5), apart=4.0)
    write_outcomes(table, context.data.parent / "large" / "sure")
    case = Dataset(context.data.parent / "large" / "sure", context.encoder, context.cache).case("knn-20", 0)
    assert case.gate is not None
    assert case.test.signals is not None
    assert case.gate.pairs

    found = follow(case, case.test.signals, case.gate.pairs, Setting(), 0.5 * case.best_cost_usd)

    assert 0 < found.asked.sum() < found.waited.sum() < len(case.test)
    assert not found.asked[~found.waited].any()
    assert found.harmed.sum() <= found.asked.sum()
    # The second answers are paid beside the first.
    assert found.paid_usd[found.asked].min() > found.paid_usd.min()
    plain = curve(case, case.test.signals, (), Setting())
    assert all(point["asked"] == point["waited"] == 0 for point in plain)


def test_a_job_pays_both_stages_out_of_one_budget(context: Context) -> None:
    case = Dataset(context.data.parent / "large" / "sure", context.encoder, context.cache).case("knn-20", 0)
    assert case.gate is not None
    assert case.test.signals is not None
    budget_usd = 0.5 * case.best_cost_usd * len(case.test)

    job = Job(case, case.test.signals, case.gate.pairs, budget_usd, plans=3).run()

    rows = np.arange(len(case.test))
    assert 0 < job.asked.sum() < len(rows)
    paid_usd = case.test.paid_usd[rows, job.first] + np.where(job.asked, case.test.paid_usd[rows, job.model], 0.0)
    assert job.paid_usd == pytest.approx(paid_usd)
    assert (job.first == job.model)[~job.asked].all()
    assert (job.first != job.model)[job.asked].all()
    assert job.paid_usd.sum() <= budget_usd * 1.1, "but for how dear the last answers turn out"
    plain = Job(case, case.test.signals, (), budget_usd, plans=3).run().told()
    assert plain["asked"] == 0
    assert job.told()["score"] > plain["score"]


def test_a_small_run(context: Context, tmp_path: Path) -> None:
    console = Console(width=200, record=True)

    result = run(context, zoo=context.data.parent / "zoo")
    report.show(result, console)
    write(result, report, tmp_path / "cascades.json")

    verifiers = {(row["dataset"], row["verifier"]) for row in result["rows"] if row["kind"] == "gate"}
    assert verifiers == {("zoo", "log-probabilities"), ("toy", "AUC 0.5"), ("toy", "AUC 0.9")}
    page = (tmp_path / "cascades.md").read_text()
    assert "log-probabilities" in page
    assert page == report_again(tmp_path / "cascades.json")
    assert "more rows" in console.export_text()


def report_again(file: Path) -> str:
    """The page made from the file alone."""
    from benchmarks.load.report import page

    return page(json.loads(file.read_text()), report, "cascades")


def test_of_many_models_the_unbeaten_are_left(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_outcomes(300, seed=6)
    beaten = replace(table, scores=table.scores * [0.1, 1, 1], cost_usd=table.cost_usd * [100, 1, 1])
    write_outcomes(beaten, context.data.parent / "many" / "beaten")
    dataset = Dataset(context.data.parent / "many" / "beaten", context.encoder, context.cache)

    assert few_models(dataset).models == ()  # all
    monkeypatch.setattr("benchmarks.cascades.run.MOST_MODELS", 2)
    assert few_models(dataset).models == ("medium", "large")


def test_only_a_certain_loss_behind_an_open_gate_is_one() -> None:
    def rows(offered: int, gains: tuple[float, float]) -> list[dict[str, object]]:
        common = {"dataset": "toy", "verifier": "AUC 0.9"}
        return [
            {**common, "seed": seed, **record}
            for seed, gain in enumerate(gains)
            for record in (
                {"kind": "gate", "pairs_offered": offered},
                {"kind": "gain", "pairs": "gated", "gain": gain, "fraction": 0.5},
            )
        ]

    assert losses(rows(1, (-0.010, -0.011))) == [("toy", "AUC 0.9")]
    assert losses(rows(0, (-0.010, -0.011))) == []
    assert losses(rows(1, (-0.020, 0.001))) == []
    assert losses(rows(1, (-0.010, -0.011))[:2]) == []


@pytest.mark.parametrize("auc", [0.5, 0.8])
def test_a_stated_verifier_is_as_good_as_stated(auc: float) -> None:
    from sklearn.metrics import roc_auc_score

    scores = (np.random.default_rng(0).random((4_000, 2)) < 0.6).astype(float)

    signals = stated(scores, auc, seed=1)

    for model in range(2):
        assert roc_auc_score(scores[:, model], signals[:, model, 0]) == pytest.approx(auc, abs=0.03)
        assert roc_auc_score(scores[:, model], signals[:, model, 1]) == pytest.approx(0.5, abs=0.03)
