"""What the experiments write, and that their words follow their numbers."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apportion.router.errors import ConfigurationError
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cache import Cache
from benchmarks.experiments.cases import find_datasets
from benchmarks.experiments.context import Context
from benchmarks.experiments.numbers import difference, over_seeds, side, where
from benchmarks.experiments.registry import available, load
from benchmarks.experiments.report import found_in, own_page, page, to_json
from tests.benchmarks.experiments.conftest import Results
from tests.paths import ROOT

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", available())
def test_an_experiment_writes_data_words_and_plots(name: str, results: Results) -> None:
    stamp = results.of(name)["stamp"]
    assert stamp["commit"]
    assert stamp["machine"]["cores"] >= 1
    text = (results.folder / f"{name}.md").read_text()
    assert text.startswith(f"# {load(name).TITLE}")
    assert "| --- |" in text
    assert results.of(name)["plots"]
    for file in results.of(name)["plots"].values():
        assert f"({file})" in text
        assert (results.folder / file).read_bytes().startswith(b"\x89PNG")


def test_the_page_holds_every_experiment_and_its_plots(results: Results) -> None:
    for name in available():
        results.of(name)
    text = page(results.folder)
    for name in available():
        assert f"## {load(name).TITLE}" in text
    assert "](results/frontier-toy.png)" in text


def test_the_committed_pages_are_not_stale() -> None:
    """Whoever changes a result or what is said about it runs `python -m benchmarks results`."""
    assert (DOCS / "results.md").read_text() == page(DOCS / "results")
    for name in found_in(DOCS / "results"):
        assert (DOCS / "results" / f"{name}.md").read_text() == own_page(name, DOCS / "results")


def test_the_same_seeds_give_the_same_numbers(context: Context, results: Results, tmp_path: Path) -> None:
    afresh = replace(context, cache=Cache(tmp_path))
    rows = json.loads(to_json(load("adversarial").run(afresh)))["rows"]
    assert rows == results.of("adversarial")["rows"]


def test_measured_cases_are_kept(context: Context, results: Results) -> None:
    results.of("adversarial")
    before = sum(1 for _ in context.cache.folder.iterdir())
    load("adversarial").run(context)
    assert sum(1 for _ in context.cache.folder.iterdir()) == before


def test_frontier_calls_the_better_estimator_better(results: Results) -> None:
    raised, lowered = copy.deepcopy(results.of("frontier")), copy.deepcopy(results.of("frontier"))
    for result, by in ((raised, 10.0), (lowered, -10.0)):
        for record in where(result["arms"], estimator="head"):
            record["area"] += by
    assert "better than `knn-40`, `knn-5`, `trees` and `logistic`." in "\n".join(load("frontier").section(raised))
    assert "better than none; worse than `knn-40`" in "\n".join(load("frontier").section(lowered))


def test_frontier_holds_claims_against_the_numbers(results: Results) -> None:
    for score, verdict in ((0.94, "no"), (0.96, "yes")):
        result = copy.deepcopy(results.of("frontier"))
        for record in where(result["arms"], estimator="head", arm="mip"):
            record["at_0.5"] = score
        (line,) = [s for s in load("frontier").section(result) if s.startswith("| `mip`: 95 %")]
        assert line.endswith(f"| {verdict} |")


def test_adversarial_says_when_not_to_bother(results: Results) -> None:
    for gain, said in ((0.0, True), (0.5, False)):
        result = copy.deepcopy(results.of("adversarial"))
        scores = {
            (r["seed"], r["order"], r["size"], r["fraction"]): r["score"] for r in where(result["rows"], arm="mip")
        }
        for r in where(result["rows"], arm="equal_spend"):
            r["score"] = scores[r["seed"], r["order"], r["size"], r["fraction"]] - gain
        text = "\n".join(load("adversarial").section(result))
        assert ("do not bother" in text) == said


def test_adversarial_arms_keep_the_caps_that_they_promise(results: Results) -> None:
    rows = where(results.of("adversarial")["rows"], fraction=0.7)
    for arm in ("mip", "per_query_capped", "per_query_batch"):
        assert all(r["planned_over"] == 0 for r in where(rows, arm=arm))
    assert max(r["planned_worst"] for r in where(rows, arm="per_query")) > 1


def test_solver_answers_agree(results: Results) -> None:
    rows = results.of("solver")["rows"]
    for r in rows:
        (cold,) = where(rows, **{k: r[k] for k in ("n_requests", "n_models", "limits", "seed")}, method="cold")
        assert r["objective"] == pytest.approx(cold["objective"], rel=2.1e-4)
        assert r["finished"]


def test_cp_sat_agrees_with_the_certified_solver(results: Results) -> None:
    result = results.of("cp-sat")
    if "skipped" in result["stamp"]["settings"]:
        pytest.skip("CP-SAT has no environment here: python -m benchmarks cp-sat makes one")
    for r in where(result["rows"], method="CP-SAT"):
        same = {k: r[k] for k in ("n_requests", "n_models", "limits", "seed")}
        (own,) = where(result["rows"], **same, method="certified, cold")
        assert r["finished"]
        assert r["objective"] == pytest.approx(own["objective"], rel=2.1e-4)


def test_cp_sat_says_how_it_compares(results: Results) -> None:
    result = copy.deepcopy(results.of("cp-sat"))
    result["stamp"]["settings"].pop("skipped", None)
    full = where(result["rows"], method="full HiGHS")
    rows = [r for r in result["rows"] if r["method"] != "CP-SAT"]
    result["rows"] = [*rows, *(r | {"method": "CP-SAT", "cpu_s": 0.5 * r["cpu_s"], "finished": False} for r in full)]
    text = "\n".join(load("cp-sat").section(result))
    assert "faster than the full HiGHS model in 6 of 6 sizes and limits (0.5 to 0.5 times its time)" in text
    assert f"its time limit on {len(full)} batches" in text


def test_pacing_policies_keep_the_day_but_for_what_answers_really_cost(results: Results) -> None:
    rows = results.of("pacing")["rows"]
    assert all(0 < r["spend"] < 1.5 for r in rows)
    assert {r["policy"] for r in rows} >= {"fixed_cap", "carry_over", "shadow_price", "clairvoyant"}
    for r in where(rows, policy="clairvoyant"):
        assert abs(r["less_clairvoyant"]) < 0.1


def test_capacity_lets_mip_plan_best(results: Results) -> None:
    """By realised scores only the oracle is sure to lead: it knows them."""
    for r in where(results.of("capacity")["rows"], arm="mip"):
        same = {k: r[k] for k in ("seed", "slots", "pressure") if k in r}
        best = where(results.of("capacity")["rows"], **same, share=r.get("share"), arm="oracle")
        assert all(r["score"] <= b["score"] * 1.01 for b in best)


def test_capacity_keeps_caps_and_compares_at_one_spend(results: Results) -> None:
    """An arm above its cap, or one that cannot spend as little, would be compared at more money."""
    rows = where(results.of("capacity")["rows"], pressure="budget")
    assert max(r["planned_over"] for r in where(rows, arm="first_come")) > 0
    for arm in ("mip", "greedy", "price", "per_query_batch", "ndch_p"):
        assert [r for r in where(rows, arm=arm) if r["planned_over"]] == []


def test_capacity_leaves_open_what_cannot_be_compared(results: Results) -> None:
    result = copy.deepcopy(results.of("capacity"))
    for record in where(result["rows"], arm="price", slots="tight", share=0.2):
        record["equal"] = None
    text = "\n".join(load("capacity").section(result))
    (row,) = [line for line in text.splitlines() if line.startswith("| tight, 20%") and "±" in line]
    assert row.split(" | ")[3] == "-"
    assert re.search(r"Tight slots, all budgets: .*; not compared with [^;]*`price`", text)
    assert not re.search(r"tight, all budgets, .* carried prices", text)


def test_capacity_reads_the_pressures_apart(results: Results) -> None:
    """A loss under a budget is not to drown in a gain without one."""
    result = copy.deepcopy(results.of("capacity"))
    for record in where(result["rows"], slots="moderate", arm="greedy"):
        lead = 0.5 if record["pressure"] == "no budget" else -0.5
        (own,) = where(result["rows"], **{k: record[k] for k in ("seed", "slots", "share")}, arm="mip")
        record["equal"] = own["equal"] - lead * (1 + record["seed"] / 100)
    text = "\n".join(load("capacity").section(result))
    assert re.search(r"Moderate slots, no budget: `mip` better than [^;]*`greedy`", text)
    assert re.search(r"Moderate slots, all budgets: .*; worse than [^;]*`greedy`", text)


def test_allocations_are_compared_at_one_spend(results: Results) -> None:
    rows = results.of("allocation")["rows"]
    assert {r["arm"] for r in rows} == {"planned", "planned_robust", "greedy", "proportional", "uniform"}
    for r in rows:
        (planned,) = where(rows, seed=r["seed"], n_gpus=r["n_gpus"], arm="planned")
        assert r["equal_spend"] == min(r["spend"], planned["spend"])
        assert r["spend"] <= 0.5 + 1e-6
        assert r["gpus_used"] <= r["n_gpus"]
        assert r["lead"] is not None
    assert any(r["spend"] > r["equal_spend"] for r in rows)


def test_allocation_says_where_planning_leads(results: Results) -> None:
    for lead, said in ((0.1, "better with 4"), (-0.1, "worse with 4"), (None, "not compared with 4")):
        result = copy.deepcopy(results.of("allocation"))
        for r in where(result["rows"], arm="greedy"):
            (planned,) = where(result["rows"], seed=r["seed"], n_gpus=r["n_gpus"], arm="planned")
            r["score"] = planned["score"] + 0.2 * (1 + r["seed"] / 100)
            r["lead"] = lead and lead * (1 + r["seed"] / 100)
        line = f"- Planned against greedy: worse with 4 GPUs. At one spend: {said}."
        assert line in load("allocation").section(result)


def test_planning_says_what_was_not_proved(results: Results) -> None:
    for gap, proved, said in ((0.009, "yes", "none"), (0.011, "no", "32, 300")):
        result = copy.deepcopy(results.of("planning"))
        (row,) = result["rows"]
        row |= {"gap": gap, "wall_s": 12.3, "cpu_s": 4.5}
        lines = load("planning").section(result)
        assert f"| 32, 300 | 12.3 | 4.5 | {gap:.2%} | {proved} | {row['replicas']} |" in lines
        assert lines[-1] == f"- Not within 1% when the time was over: {said}."


def test_robust_chooses_on_validation(results: Results) -> None:
    for r in where(results.of("robust")["success"], variant="chosen"):
        same = where(results.of("robust")["success"], seed=r["seed"], estimator=r["estimator"])
        quantiles = [s for s in same if s["variant"] not in ("plain", "chosen", "chosen or plain")]
        assert r["validation_area"] == max(s["validation_area"] for s in quantiles)


def test_differences_are_paired_by_seed() -> None:
    rows = [{"seed": s, "arm": a, "x": s + (a == "a") * (1 + s / 10)} for s in range(3) for a in "ab"]
    gain = difference(rows, "x", {"arm": "a"}, {"arm": "b"})
    assert gain.mean == pytest.approx(1.1)
    assert gain.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert side(gain) == 1
    assert side(Summary(0.1, 0.2, 3)) == side(Summary(5.0, math.nan, 1)) == 0
    assert over_seeds([*rows, {"seed": 3, "arm": "a", "x": None}], "x", arm="b").n == 3


def test_json_has_one_record_a_line_and_no_nan() -> None:
    text = to_json({"a": {"b": np.float64(1 / 3)}, "rows": [{"x": math.nan}, {"x": np.arange(2)}]})
    assert json.loads(text) == {"a": {"b": 0.333333}, "rows": [{"x": None}, {"x": [0, 1]}]}
    assert len(text.splitlines()) == 7


def test_the_cache_makes_once_for_the_same_parts(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), []
    for parts in (("a", 1), ("a", 1), ("a", 2)):
        cache.get(parts, lambda parts=parts: made.append(parts))
    assert made == [("a", 1), ("a", 2)]


def test_a_folder_without_outcomes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no outcomes table in"):
        find_datasets(tmp_path, "minilm", Cache(tmp_path))
    with pytest.raises(ConfigurationError, match="unknown experiment 'x': use frontier"):
        load("x")
