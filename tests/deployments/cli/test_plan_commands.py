"""`apportion plan` on real files, with a real predictor: from nothing, and close to a plan that runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from apportion.allocation.near import moves_between
from apportion.allocation.origin import Origin
from apportion.allocation.plan import Plan, file_hash, load_plan
from apportion.allocation.planner import PlanOptions
from apportion.allocation.replica import Profile, ReplicaType, load_profiles, save_profiles
from apportion.deployments.cli import app
from apportion.router.outcomes import write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from tests.samples import PRICES

runner = CliRunner()

CLUSTER = "nodes:\n  - {name: a, gpu_type: T4, n_gpus: 2, count: 2}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path, outcomes: OutcomesTable) -> Path:
    home = tmp_path_factory.mktemp("plan")
    write_outcomes(outcomes, home / "outcomes")
    arguments = ["--data", str(home / "outcomes"), "--out", str(home / "artefact"), "--encoder", str(encoder_folder)]
    trained = runner.invoke(app, ["train", *arguments, "--estimator", "knn", "--device", "cpu", "--compare-rows", "0"])
    assert trained.exit_code == 0, trained.output
    arrivals = np.random.default_rng(0).exponential(0.5, 400).cumsum()
    lines = [
        json.dumps({"prompt": p, "arrival_s": t})
        for p, t in zip(outcomes.prompts[:400], arrivals.tolist(), strict=True)
    ]
    (home / "requests.jsonl").write_text("\n".join(lines))
    (home / "cluster.yaml").write_text(CLUSTER)
    entries = [
        f"  - {{name: {name}, source: nowhere, input_usd_per_million: {price.input_usd_per_million}, "
        f"output_usd_per_million: {price.output_usd_per_million}, max_model_len: 512}}\n"
        for name, price in PRICES.items()
    ]
    (home / "models.yaml").write_text("models:\n" + "".join(entries))
    delivered = {("small", 0.5): 300.0, ("medium", 0.5): 120.0, ("medium", 1.0): 260.0, ("large", 1.0): 60.0}
    save_profiles(
        [
            Profile(
                ReplicaType(m, "T4", share),
                True,
                16,
                speed,
                20 * speed,
                0.1,
                1.0,
                1.0,
                "computed",
                origin=Origin("nowhere", 512, "bfloat16"),
            )
            for (m, share), speed in delivered.items()
        ],
        home / "profiles.yaml",
    )
    return home


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("max_model_len: 512", "max_model_len: 4096", "max_model_len 512, now 4096"),
        ("source: nowhere", "source: elsewhere", "source nowhere, now elsewhere"),
        ("512}", "512, engine_args: {kv_cache_dtype: fp8}}", "arguments {}, now {kv_cache_dtype: fp8}"),
        ("512}", "512, quantisation: fp8}", "quantisation None, now fp8"),
        ("512}", "512, engine_args: {revision: abc}}", "revision None, now abc"),
        ("512}", "512, sizes: {weights_gib: 9}}", "sizes {}, now {weights_gib: 9.0}"),
    ],
)
def test_a_model_that_changed_has_to_be_profiled_again(folder: Path, before: str, after: str, says: str) -> None:
    changed = folder / "changed.yaml"
    changed.write_text((folder / "models.yaml").read_text().replace(before, after))
    said = invoke(
        ["plan", "--models", str(changed), "--cluster", str(folder / "cluster.yaml"), "--out", "none.json"],
        folder, "--outcomes", folder / "outcomes", "--rate", 2, code=2,
    )  # fmt: skip
    assert "model 'small' was profiled with" in said
    assert says in said
    assert "run `apportion profile` again" in said


def test_profiles_that_do_not_say_what_they_were_made_of_are_refused(folder: Path) -> None:
    bare = [replace(entry, origin=None) for entry in load_profiles(folder / "profiles.yaml")]
    save_profiles(bare, folder / "bare.yaml")
    files = ["--models", folder / "models.yaml", "--cluster", folder / "cluster.yaml", "--profiles"]
    result = runner.invoke(app, ["plan", *map(str, files), str(folder / "bare.yaml"), "--out", "none.json"])
    assert result.exit_code == 2
    assert "without `origin`" in result.output


def invoke(command: list[str], folder: Path, *options: object, code: int = 0) -> str:
    given = ["--profiles", folder / "profiles.yaml", "--device", "cpu", "--batch-size", 20, "--batches", 3]
    if "--outcomes" not in options:
        given += ["--prompts", folder / "requests.jsonl"]
    given += [] if "--outcomes" in options else ["--predictor", folder / "artefact"]
    result = runner.invoke(app, [*command, *map(str, given), *map(str, options)])
    assert result.exit_code == code, result.output
    return " ".join((result.stderr if code else result.stdout).split())


def make_plan(folder: Path, name: str, *options: object, code: int = 0) -> str:
    files = ["--models", folder / "models.yaml", "--cluster", folder / "cluster.yaml", "--out", folder / name]
    return invoke(["plan", *map(str, files)], folder, *options, code=code)


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    said = make_plan(folder, "plan.json")
    assert "no plan is better by more than" in said
    assert "Held-out requests" in said
    return load_plan(folder / "plan.json")


def test_plan_writes_a_plan_for_each_part_of_the_day(folder: Path) -> None:
    hours = folder / "hours.yaml"
    hours.write_text('hours:\n  - {begins: "07:00", rate_per_s: 9}\n  - {begins: "20:00", rate_per_s: 2}\n')
    said = json.loads(make_plan(folder, "day.json", "--hours", hours, "--engine-start-s", 150, "--json", "-"))
    busy, quiet = said["hours"]
    assert (busy["from"], quiet["from"], quiet["begin"]) == ("07:00", "20:00", "20:00")
    assert busy["begin"] == ("06:57" if busy["start"] else "07:00")
    for row in (busy, quiet):
        plan = load_plan(row["plan"])
        assert plan.rate_per_s == row["rate_per_s"]
        assert plan.inputs["prompts"]
    assert Path(quiet["plan"]).name == "day-2000.json"
    assert load_plan(busy["plan"]).bounds
    assert "--hours: holds the rates of the day" in make_plan(folder, "n.json", "--hours", hours, "--rate", 3, code=2)


def test_a_request_that_is_too_long_is_named_by_file_and_line(folder: Path) -> None:
    file = folder / "long.jsonl"
    lines = [{"prompt": f"question {number}", "arrival_s": 100.0 - number} for number in range(60)]
    lines[41]["prompt"] = "word " * 2000
    file.write_text("\n".join(map(json.dumps, lines)))
    models = ["--models", folder / "models.yaml", "--cluster", folder / "cluster.yaml", "--out", folder / "long.json"]
    given = ["--profiles", folder / "profiles.yaml", "--prompts", file, "--predictor", folder / "artefact"]
    sizes = ["--batch-size", 10, "--batches", 2, "--device", "cpu", "--no-trades"]
    result = runner.invoke(app, ["plan", *map(str, (*models, *given, *sizes))])
    assert result.exit_code == 0, result.output
    assert f"the first is {file}, line 42, the longest has" in " ".join(result.stderr.split())


def test_plan_writes_what_it_was_made_from(folder: Path, plan: Plan) -> None:
    assert plan.gap <= 1e-3
    arrivals = [json.loads(line)["arrival_s"] for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert plan.rate_per_s == pytest.approx(399 / (arrivals[-1] - arrivals[0]))
    assert plan.inputs["models"] == file_hash(folder / "models.yaml")
    assert plan.inputs["predictor"] == file_hash(folder / "artefact")
    assert set(plan.inputs) == {"models", "cluster", "profiles.0", "prompts", "predictor"}
    assert {p.replica.gpu_type for p in plan.placements} == {"T4"}
    assert all(load.utilisation <= 0.8 + 1e-6 for load in plan.loads)


def test_plan_keeps_within_the_owners_money(folder: Path, plan: Plan) -> None:
    assert plan.bill is not None
    assert plan.bill.usd_per_hour is None
    money = ["--gpu-usd-per-hour", "T4=0.5", "--budget-usd-per-hour", 1.1, "--success-usd", 0.02, "--json", "-"]
    report = json.loads(make_plan(folder, "money.json", *money))
    made = load_plan(folder / "money.json")
    assert made.budget_usd_per_hour == 1.1
    assert made.settings["success_usd"] == 0.02
    assert report["usd_per_hour"] == made.bill.usd_per_hour == 0.5 * sum(cost.used for cost in made.bill.gpus) <= 1.1
    assert report["usd_per_million_tokens"] > 0
    assert [trade["more"] for trade in report["trades"]] == [-1, 1]
    for wrong in ("T4", "T4=much", "=1", "T4=-1"):
        assert "give it as TYPE=USD" in make_plan(folder, "none.json", "--gpu-usd-per-hour", wrong, code=2)
    assert "no node has GPUs of type 'H100'" in make_plan(folder, "none.json", "--gpu-usd-per-hour", "H100=1", code=2)


def test_plan_buys_of_a_model_that_others_run(folder: Path) -> None:
    own = (folder / "models.yaml").read_text().splitlines()
    price = "input_usd_per_million: 1, output_usd_per_million: 3, max_model_len: 512, max_num_seqs: 20"
    external = "external: {base_url: 'https://api.example.com/v1', model: vendor-1, requests_per_minute: 60}"
    entry = f"  - {{name: large, engine: external, {price}, {external}}}"
    lines = [line for line in own if "name: large" not in line] + [entry]
    (folder / "mixed.yaml").write_text("\n".join(lines))
    made = ["plan", "--models", folder / "mixed.yaml", "--cluster", folder / "cluster.yaml", "--out"]
    options = ["--gpu-usd-per-hour", "T4=0.5", "--success-usd", 1]
    said = invoke([*map(str, made), str(folder / "mixed.json")], folder, *options, "--no-trades")
    plan = load_plan(folder / "mixed.json")
    load = next(one for one in plan.loads if one.model == "large")
    assert (load.slots, {placed.replica.model for placed in plan.placements} & {"large"}) == (20, set())
    assert 0 < load.share * plan.rate_per_s <= 0.8 + 1e-6
    assert plan.bill.bought_usd_per_hour > 0
    assert "from outside" in said
    assert "for bought tokens" in said
    assert plan.trades == ()


def test_plan_takes_its_options(folder: Path, plan: Plan) -> None:
    report = json.loads(
        make_plan(
            folder, "options.json", "--rate", 4, "--budget-per-request-usd", 1e-5, "--high-availability",
            "--quantile", 0.25, "--low-rate", 1, "--high-rate", 5, "--target-utilisation", 0.7, "--json", "-",
        )
    )  # fmt: skip
    made = load_plan(folder / "options.json")
    assert report["rate_per_s"] == made.rate_per_s == 4.0
    assert made.expected_cost_usd <= 1e-5 * (1 + 1e-6)
    assert made.budget_usd == 1e-5
    assert report["bounds"]
    assert (made.settings["quantile"], made.settings["high_availability"]) == (0.25, True)
    assert all(load.utilisation <= 0.7 + 1e-6 for load in made.loads)
    for model in {p.replica.model for p in made.placements}:
        assert len({p.node for p in made.placements if p.replica.model == model}) == 2


def test_a_model_that_fits_nowhere_is_pointed_out(folder: Path) -> None:
    known = [entry for entry in load_profiles(folder / "profiles.yaml") if entry.replica.model != "large"]
    save_profiles(known, folder / "few.yaml")
    files = ["--models", folder / "models.yaml", "--cluster", folder / "cluster.yaml", "--out", folder / "few.json"]
    given = ["--prompts", folder / "requests.jsonl", "--predictor", folder / "artefact", "--device", "cpu"]
    options = ["--profiles", folder / "few.yaml", "--batch-size", 20, "--batches", 3]
    result = runner.invoke(app, ["plan", *map(str, [*files, *given, *options])])
    assert result.exit_code == 0, result.output
    profiles, tokenizers = result.stderr.splitlines()
    assert profiles.startswith("Warning: no profile of 'large' fits this cluster")
    assert "'small'" not in profiles
    assert tokenizers.startswith("Warning: input tokens are counted with the encoder's tokenizer")


def test_recorded_outcomes_can_be_planned_for(folder: Path) -> None:
    report = json.loads(
        make_plan(folder, "recorded.json", "--outcomes", folder / "outcomes", "--rate", 2, "--json", "-")
    )
    assert report["gap"] <= 1e-3
    assert report["expected_quality"] > 0.5


def test_planning_again_changes_little(folder: Path, plan: Plan) -> None:
    said = invoke(
        ["plan", "--running", str(folder / "plan.json"), "--out", str(folder / "next.json")], folder, "--rate", 3
    )
    after = load_plan(folder / "next.json")
    moves = moves_between(plan.placements, after.placements)
    assert f"{len(moves.stopped)} to stop, {len(moves.started)} to start" in said
    assert after.rate_per_s == 3.0
    kept = len(plan.placements) - len(moves.stopped)
    assert kept >= len(plan.placements) - 1


def test_planning_again_keeps_what_the_running_plan_had_to_keep(folder: Path) -> None:
    make_plan(
        folder, "strict.json", "--budget-per-request-usd", 1e-5, "--high-availability", "--target-utilisation", 0.7,
        "--quantile", 0.25, "--gpu-price", 1e-4, "--reserve-gpu", 0.1,
    )  # fmt: skip
    command = ["plan", "--profiles", folder / "profiles.yaml", "--device", "cpu", "--prompts"]
    command += [folder / "requests.jsonl", "--predictor", folder / "artefact", "--out", folder / "next.json"]

    def replanned(*options: object) -> Plan:
        result = runner.invoke(app, [*map(str, command), "--running", str(folder / "strict.json"), *map(str, options)])
        assert result.exit_code == 0, result.output
        return load_plan(folder / "next.json")

    before, same = load_plan(folder / "strict.json"), replanned()
    assert (same.budget_usd, same.batch_size) == (1e-5, 20)
    for name in (
        "n_batches",
        "quantile",
        "peak",
        "high_availability",
        "target_utilisation",
        "gpu_price",
        "reserved_gpu_fraction",
    ):
        assert same.settings[name] == before.settings[name], name
    freed = replanned(
        "--budget-per-request-usd", "inf", "--no-high-availability", "--quantile", 0, "--batch-size", 10,
        "--low-rate", 1, "--high-rate", 3,
    )  # fmt: skip
    assert (freed.budget_usd, freed.batch_size) == (None, 10)
    assert (freed.settings["quantile"], freed.settings["high_availability"]) == (None, False)
    assert freed.settings["target_utilisation"] == 0.7
    assert freed.bounds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rate", 1000), "there is no plan for this cluster: given all else, it cannot meet the request rate"),
        (("--budget-per-request-usd", 1e-9), "raise the budget from 1e-09"),
        (("--low-rate", 1), "give both or neither"),
        (("--profiles", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("--peak", 0.9, "--rate", 1000), "needs twice that"),
    ],
)
def test_plan_says_what_is_wrong(folder: Path, options: tuple[object, ...], message: str) -> None:
    assert message in make_plan(folder, "none.json", *options, code=2)
    assert not (folder / "none.json").exists()


def test_plan_needs_a_cluster_and_models_unless_a_plan_runs(folder: Path, plan: Plan) -> None:
    out = ["--out", folder / "none.json"]
    models, cluster = ["--models", folder / "models.yaml"], ["--cluster", folder / "cluster.yaml"]
    for given, message in (
        (models, "--cluster: missing; give the cluster to plan for, or --running"),
        (cluster, "--config, --models: give exactly one of them"),
        ([*models, *cluster, "--move-price", 0.1], "--move-price: nothing runs that could move"),
        (["--running", folder / "plan.json", "--config", folder / "none.yaml"], "none.yaml cannot be read"),
    ):
        assert message in invoke(["plan", *map(str, [*out, *given])], folder, code=2)


def test_the_defaults_that_the_help_names_are_those_of_the_planner() -> None:
    options = PlanOptions()
    named = {
        "batch_size": options.batch_size or 0,
        "cache_safety": options.cache_safety,
        "first_token_s": options.latency.first_token_s,
        "token_s": options.latency.token_s,
        "total_s": options.latency.total_s,
        "percentile": options.latency.percentile,
        "batches": options.n_batches,
        "seed": options.seed,
        "budget_per_request_usd": options.requirements.budget_usd,
        "target_utilisation": options.requirements.target_utilisation,
        "reserve_gpu": options.requirements.reserved_gpu_fraction,
        "quantile": options.quantile or 0,
        "peak": options.peak or 0,
    }
    group: Any = get_command(app)
    parameters = {parameter.name: parameter for parameter in group.commands["plan"].params}
    for name, value in named.items():
        assert f"[default: {value:g}, or as the running plan]" in parameters[name].help
    assert parameters["gap"].default == options.gap
    assert parameters["time_limit_s"].default == options.time_limit_s


def test_a_workload_is_either_prompts_or_outcomes(folder: Path) -> None:
    said = make_plan(folder, "none.json", "--outcomes", folder / "outcomes", code=2)
    assert "--rate: missing, and outcomes have no arrival times" in said
    files = ["--models", folder / "models.yaml", "--cluster", folder / "cluster.yaml", "--out", folder / "none.json"]
    result = runner.invoke(app, ["plan", *map(str, files), "--profiles", str(folder / "profiles.yaml")])
    assert result.exit_code == 2
    assert "give --prompts with --predictor, or --outcomes" in result.stderr
