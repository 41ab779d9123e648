"""`apportion plan` and `apportion replan`: which replicas run on which GPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, console, errors, write_json
from apportion.deployments.cli.clusters import ClusterOption, read_cluster
from apportion.deployments.cli.models import ConfigOption, ModelsOption, read_models
from apportion.deployments.cli.workloads import (
    EncoderOption,
    OutcomesOption,
    PredictorOption,
    PromptsOption,
    RateOption,
    read_workload,
)

if TYPE_CHECKING:
    from apportion.allocation.cluster import Cluster
    from apportion.allocation.models import ModelSpec
    from apportion.allocation.planner import Planned, PlanOptions
    from apportion.allocation.problem import Requirements
    from apportion.allocation.replica import Profile

Changeable = TypeVar("Changeable", "Requirements", "PlanOptions")
ProfilesOption = Annotated[
    list[Path], typer.Option(metavar="FILE", help="Profiles, repeatable; measured ones count before computed ones.")
]
OutOption = Annotated[Path, typer.Option(help="Plan to write.")]
BUDGET = "Mean cost of a request, USD; inf: no limit."
BATCH_SIZE = "Requests that run at once."
BATCHES = "Batches that are sampled from the workload."
UTILISATION = "Share of the replicas' tokens/s that the mean demand may take."
AVAILABLE = "No model loses all its replicas when one node dies."
RESERVE = "Share of one GPU that stays free for the predictor, its `num_gpus` in the configuration."
QUANTILE = "Plan on this lower quantile of the predicted success, e.g. 0.25; 0: on its mean."
PEAK = "Plan for the rate that this share of all minutes does not pass, e.g. 0.95; 0: for the mean rate."
GPU_PRICE = "Mean success that a GPU has to earn; default: 0.001 for all of them together."
AS_RUNNING = " Default: as the running plan."
LowRateOption = Annotated[float | None, typer.Option(help="Rate of quiet hours, for autoscaling's bounds.")]
HighRateOption = Annotated[float | None, typer.Option(help="Rate of busy hours, for autoscaling's bounds.")]
GapOption = Annotated[float, typer.Option(min=0, help="Relative gap to prove.")]
TimeOption = Annotated[float, typer.Option(min=1, help="Seconds for the search; the best by then counts.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the sampled batches.")]


def plan(
    cluster: ClusterOption,
    profiles: ProfilesOption,
    out: OutOption,
    config: ConfigOption = None,
    models: ModelsOption = None,
    prompts: PromptsOption = None,
    outcomes: OutcomesOption = None,
    predictor: PredictorOption = None,
    rate: RateOption = None,
    budget_per_request_usd: Annotated[float, typer.Option(min=0, help=BUDGET)] = float("inf"),
    batch_size: Annotated[int, typer.Option(min=1, help=BATCH_SIZE)] = 100,
    batches: Annotated[int, typer.Option(min=1, help=BATCHES)] = 20,
    target_utilisation: Annotated[float, typer.Option(min=0.01, max=1, help=UTILISATION)] = 0.8,
    high_availability: Annotated[bool, typer.Option("--high-availability", help=AVAILABLE)] = False,
    reserve_gpu: Annotated[float, typer.Option(min=0, max=1, help=RESERVE)] = 0.0,
    quantile: Annotated[float, typer.Option(min=0, max=1, help=QUANTILE)] = 0.0,
    peak: Annotated[float, typer.Option(min=0, max=1, help=PEAK)] = 0.0,
    low_rate: LowRateOption = None,
    high_rate: HighRateOption = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help=GPU_PRICE)] = None,
    gap: GapOption = 1e-3,
    time_limit_s: TimeOption = 60.0,
    seed: SeedOption = 0,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Decide how many replicas of which model run on which share of which GPU, so that expected success is the highest
    that GPUs, budget and rate allow.

    A fifth of the requests is held out, and the plan is tried on it at 1, 1.2 and 1.5 times the load.

    Example: `apportion plan --config serve_config.yaml --cluster cluster.yaml --profiles profiles.yaml --out plan.json
    --prompts requests.jsonl --predictor predictor/`
    """
    from apportion.allocation.plan import save_plan
    from apportion.allocation.planner import PlanOptions, make_plan
    from apportion.allocation.problem import Requirements
    from apportion.allocation.replica import load_profiles
    from apportion.allocation.report import show

    there = read_cluster(cluster)
    specs = read_models(config, models, there.gpu_types).specs
    known = load_profiles(*profiles)
    _warn_of_models_left_out(there, specs, known)
    workload = read_workload(specs, prompts, outcomes, predictor, rate, encoder, device)
    requirements = Requirements(
        budget_usd=budget_per_request_usd,
        target_utilisation=target_utilisation,
        high_availability=high_availability,
        reserved_gpu_fraction=reserve_gpu,
        gpu_price=gpu_price,
    )
    options = PlanOptions(
        requirements, batch_size, batches, seed, quantile or None, peak or None, low_rate, high_rate, gap, time_limit_s
    )
    inputs = _hashes(
        config=config, models=models, cluster=cluster, prompts=prompts, outcomes=outcomes, predictor=predictor
    )
    inputs |= _hashes(**{f"profiles.{number}": file for number, file in enumerate(profiles)})
    made = make_plan(there, specs, known, workload, options, inputs=inputs)
    save_plan(made.plan, out)
    if not write_json(_result(made), json_file):
        show(made.plan, console)
        console.print(f"{out} written in {made.wall_time_s:.1f} s.", highlight=False)


def replan(
    running: Annotated[Path, typer.Argument(help="plan.json that runs now.")],
    profiles: ProfilesOption,
    out: OutOption,
    models: Annotated[Path | None, typer.Option(metavar="FILE", help="models.yaml; default: the plan's.")] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="FILE|ray", help="As for `plan`; default: the plan's cluster.")
    ] = None,
    prompts: PromptsOption = None,
    outcomes: OutcomesOption = None,
    predictor: PredictorOption = None,
    rate: RateOption = None,
    move_price: Annotated[
        float, typer.Option(min=0, help="Mean success that starting or stopping one replica has to earn.")
    ] = 0.001,
    budget_per_request_usd: Annotated[float | None, typer.Option(min=0, help=BUDGET + AS_RUNNING)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=BATCH_SIZE + AS_RUNNING)] = None,
    batches: Annotated[int | None, typer.Option(min=1, help=BATCHES + AS_RUNNING)] = None,
    target_utilisation: Annotated[float | None, typer.Option(min=0.01, max=1, help=UTILISATION + AS_RUNNING)] = None,
    high_availability: Annotated[
        bool | None, typer.Option("--high-availability/--no-high-availability", help=AVAILABLE + AS_RUNNING)
    ] = None,
    reserve_gpu: Annotated[float | None, typer.Option(min=0, max=1, help=RESERVE + AS_RUNNING)] = None,
    quantile: Annotated[float | None, typer.Option(min=0, max=1, help=QUANTILE + AS_RUNNING)] = None,
    peak: Annotated[float | None, typer.Option(min=0, max=1, help=PEAK + AS_RUNNING)] = None,
    low_rate: LowRateOption = None,
    high_rate: HighRateOption = None,
    gpu_price: Annotated[
        float | None, typer.Option(min=0, help="Mean success that a GPU has to earn." + AS_RUNNING)
    ] = None,
    gap: GapOption = 1e-4,
    time_limit_s: TimeOption = 60.0,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampled batches." + AS_RUNNING)] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Plan again for another workload, rate or cluster, changing little of what runs.

    What the running plan had to keep the next one keeps too, unless an option says otherwise. Replicas that stay keep
    their GPUs; every start and every stop has to earn its price.

    Example: `apportion replan plan.json --profiles profiles.yaml --out next.json --prompts today.jsonl
    --predictor predictor/`
    """
    from apportion.allocation.near import moves_between
    from apportion.allocation.plan import load_plan, save_plan
    from apportion.allocation.planner import make_plan, options_of
    from apportion.allocation.replica import load_profiles
    from apportion.allocation.report import moves_table, show

    before = load_plan(running)
    there = before.cluster if cluster is None else read_cluster(cluster)
    specs = before.models if models is None else read_models(None, models, there.gpu_types).specs
    known = load_profiles(*profiles)
    _warn_of_models_left_out(there, specs, known)
    workload = read_workload(specs, prompts, outcomes, predictor, rate, encoder, device)
    kept = options_of(before)
    requirements = _changed(
        kept.requirements,
        budget_usd=budget_per_request_usd,
        target_utilisation=target_utilisation,
        high_availability=high_availability,
        reserved_gpu_fraction=reserve_gpu,
        gpu_price=gpu_price,
        move_price=move_price,
    )
    options = _changed(
        kept,
        requirements=requirements,
        batch_size=batch_size,
        n_batches=batches,
        seed=seed,
        quantile=quantile,
        peak=peak,
        gap=gap,
        time_limit_s=time_limit_s,
    )
    options = replace(
        options,
        quantile=options.quantile or None,
        peak=options.peak or None,
        low_rate_per_s=low_rate,
        high_rate_per_s=high_rate,
    )
    inputs = _hashes(running=running, models=models, cluster=cluster, prompts=prompts, outcomes=outcomes)
    inputs |= _hashes(predictor=predictor, **{f"profiles.{number}": file for number, file in enumerate(profiles)})
    made = make_plan(there, specs, known, workload, options, running=before.placements, inputs=inputs)
    save_plan(made.plan, out)
    moves = moves_between(before.placements, made.plan.placements)
    result = {**_result(made), "started": len(moves.started), "stopped": len(moves.stopped)}
    if not write_json(result, json_file):
        show(made.plan, console)
        console.print(moves_table(moves))
        console.print(f"{out} written in {made.wall_time_s:.1f} s.", highlight=False)


def _warn_of_models_left_out(cluster: Cluster, specs: tuple[ModelSpec, ...], known: tuple[Profile, ...]) -> None:
    from rich.text import Text

    from apportion.allocation.problem import usable_profiles

    usable = {profile.replica.model for profile in usable_profiles(cluster, specs, known)}
    for name in (spec.name for spec in specs if spec.name not in usable):
        errors.print(
            Text("Warning:", style="yellow"),
            f"no profile of {name!r} fits this cluster, so the plan leaves it out: profile it, "
            "with other shares or GPU counts, or allow it other GPU types.",
            highlight=False,
            soft_wrap=True,
        )


def _changed(options: Changeable, **given: Any) -> Changeable:
    """With the values that were given; those that are None stay as they are."""
    return replace(options, **{name: value for name, value in given.items() if value is not None})


def _hashes(**files: Path | str | None) -> dict[str, str]:
    """SHA-256 of the inputs that are files or folders, by name."""
    from apportion.allocation.plan import file_hash

    return {name: file_hash(file) for name, file in files.items() if file is not None and Path(file).exists()}


def _result(made: Planned) -> dict[str, Any]:
    from dataclasses import asdict

    plan = made.plan
    return {
        "expected_quality": plan.expected_quality,
        "expected_cost_usd": plan.expected_cost_usd,
        "objective": plan.objective,
        "bound": plan.bound,
        "gap": plan.gap,
        "timed_out": made.optimum.timed_out,
        "wall_time_s": made.wall_time_s,
        "rate_per_s": plan.rate_per_s,
        "utilisation": plan.utilisation,
        "replicas": {str(replica): number for replica, number in sorted(plan.counts.items())},
        "held_out": [asdict(one) for one in plan.assessments],
        "bounds": {str(one.replica): [one.min_replicas, one.max_replicas] for one in plan.bounds},
    }
