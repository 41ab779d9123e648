"""`apportion plan` and `apportion replan`: which replicas run on which GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.application import DeviceOption, JsonOption, console, write_json
from router.cli.clusters import ClusterOption, read_cluster
from router.cli.workloads import (
    EncoderOption,
    OutcomesOption,
    PredictorOption,
    PromptsOption,
    RateOption,
    read_workload,
)

if TYPE_CHECKING:
    from allocation.planner import Planned

ModelsOption = Annotated[Path, typer.Option(metavar="FILE", help="models.yaml.")]
ProfilesOption = Annotated[
    list[Path], typer.Option(metavar="FILE", help="Profiles, repeatable; measured ones count before computed ones.")
]
OutOption = Annotated[Path, typer.Option(help="Plan to write.")]
BudgetOption = Annotated[float | None, typer.Option(min=0, help="Mean cost of a request, USD; default: no limit.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Requests that run at once.")]
BatchesOption = Annotated[int, typer.Option(min=1, help="Batches that are sampled from the workload.")]
UtilisationOption = Annotated[
    float, typer.Option(min=0.01, max=1, help="Share of the replicas' tokens/s that the mean demand may take.")
]
AvailableOption = Annotated[
    bool, typer.Option("--high-availability", help="No model loses all its replicas when one node dies.")
]
QuantileOption = Annotated[
    float | None, typer.Option(help="Plan on this lower quantile of the predicted success, e.g. 0.25.")
]
PeakOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Plan for the rate that this share of all minutes does not pass, e.g. 0.95."),
]
GpuPriceOption = Annotated[
    float | None,
    typer.Option(min=0, help="Mean success that a GPU has to earn; default: 0.001 for all of them together."),
]
GapOption = Annotated[float, typer.Option(min=0, help="Relative gap to prove.")]
TimeOption = Annotated[float, typer.Option(min=1, help="Seconds for the search; the best by then counts.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the sampled batches.")]


def plan(
    models: ModelsOption,
    cluster: ClusterOption,
    profiles: ProfilesOption,
    out: OutOption,
    prompts: PromptsOption = None,
    outcomes: OutcomesOption = None,
    predictor: PredictorOption = None,
    rate: RateOption = None,
    budget_per_request_usd: BudgetOption = None,
    batch_size: BatchSizeOption = 100,
    batches: BatchesOption = 20,
    target_utilisation: UtilisationOption = 0.8,
    high_availability: AvailableOption = False,
    quantile: QuantileOption = None,
    peak: PeakOption = None,
    low_rate: Annotated[float | None, typer.Option(help="Rate of quiet hours, for autoscaling's bounds.")] = None,
    high_rate: Annotated[float | None, typer.Option(help="Rate of busy hours, for autoscaling's bounds.")] = None,
    gpu_price: GpuPriceOption = None,
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

    Example: `apportion plan --models models.yaml --cluster cluster.yaml --profiles profiles.yaml --out plan.json
    --prompts requests.jsonl --predictor predictor/`
    """
    from allocation.models import load_models
    from allocation.plan import save_plan
    from allocation.planner import PlanOptions, make_plan
    from allocation.problem import Requirements
    from allocation.replica import load_profiles
    from allocation.report import show

    specs, there = load_models(models), read_cluster(cluster)
    known = load_profiles(*profiles)
    workload = read_workload(specs, prompts, outcomes, predictor, rate, encoder, device)
    requirements = Requirements(
        budget_usd=_or_infinity(budget_per_request_usd),
        target_utilisation=target_utilisation,
        high_availability=high_availability,
        gpu_price=gpu_price,
    )
    options = PlanOptions(
        requirements, batch_size, batches, seed, quantile, peak, low_rate, high_rate, gap, time_limit_s
    )
    inputs = _hashes(models=models, cluster=cluster, prompts=prompts, outcomes=outcomes, predictor=predictor)
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
    budget_per_request_usd: BudgetOption = None,
    batch_size: BatchSizeOption = 100,
    batches: BatchesOption = 20,
    target_utilisation: UtilisationOption = 0.8,
    high_availability: AvailableOption = False,
    quantile: QuantileOption = None,
    peak: PeakOption = None,
    gpu_price: GpuPriceOption = None,
    gap: GapOption = 1e-4,
    time_limit_s: TimeOption = 60.0,
    seed: SeedOption = 0,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Plan again for another workload, rate or cluster, changing little of what runs.

    Replicas that stay keep their GPUs; every start and every stop has to earn its price.

    Example: `apportion replan plan.json --profiles profiles.yaml --out next.json --prompts today.jsonl
    --predictor predictor/`
    """
    from allocation.models import load_models
    from allocation.near import moves_between
    from allocation.plan import load_plan, save_plan
    from allocation.planner import PlanOptions, make_plan
    from allocation.problem import Requirements
    from allocation.replica import load_profiles
    from allocation.report import moves_table, show

    before = load_plan(running)
    specs = before.models if models is None else load_models(models)
    there = before.cluster if cluster is None else read_cluster(cluster)
    workload = read_workload(specs, prompts, outcomes, predictor, rate, encoder, device)
    requirements = Requirements(
        budget_usd=_or_infinity(budget_per_request_usd),
        target_utilisation=target_utilisation,
        high_availability=high_availability,
        gpu_price=gpu_price,
        move_price=move_price,
    )
    options = PlanOptions(requirements, batch_size, batches, seed, quantile, peak, gap=gap, time_limit_s=time_limit_s)
    inputs = _hashes(running=running, models=models, cluster=cluster, prompts=prompts, outcomes=outcomes)
    inputs |= _hashes(predictor=predictor, **{f"profiles.{number}": file for number, file in enumerate(profiles)})
    made = make_plan(
        there, specs, load_profiles(*profiles), workload, options, running=before.placements, inputs=inputs
    )
    save_plan(made.plan, out)
    moves = moves_between(before.placements, made.plan.placements)
    result = {**_result(made), "started": len(moves.started), "stopped": len(moves.stopped)}
    if not write_json(result, json_file):
        show(made.plan, console)
        console.print(moves_table(moves))
        console.print(f"{out} written in {made.wall_time_s:.1f} s.", highlight=False)


def _or_infinity(budget_usd: float | None) -> float:
    return float("inf") if budget_usd is None else budget_usd


def _hashes(**files: Path | str | None) -> dict[str, str]:
    """SHA-256 of the inputs that are files or folders, by name."""
    from allocation.plan import file_hash

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
