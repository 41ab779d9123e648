"""`apportion plan`: which replicas run on which GPUs, from nothing or close to what runs already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from apportion.deployments.cli.application import (
    DeviceOption,
    JsonOption,
    console,
    errors,
    warn,
    writable_file,
    write_json,
)
from apportion.deployments.cli.clusters import OptionalClusterOption, read_cluster
from apportion.deployments.cli.models import ConfigOption, ModelsOption, check_profiles, read_models
from apportion.deployments.cli.workloads import (
    EncoderOption,
    OutcomesOption,
    PredictorOption,
    PromptsOption,
    RateOption,
    read_workload,
)
from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.cluster import Cluster
    from apportion.allocation.day import Turn
    from apportion.allocation.latency import LatencyBounds
    from apportion.allocation.models import ModelSpec
    from apportion.allocation.near import Moves
    from apportion.allocation.plan import Plan
    from apportion.allocation.planner import Planned, PlanOptions
    from apportion.allocation.problem import Requirements
    from apportion.allocation.replica import Profile
    from apportion.allocation.workload import Workload

Changeable = TypeVar("Changeable", "Requirements", "PlanOptions", "LatencyBounds")
MOVE_PRICE = 1e-3


def _default(value: str) -> str:
    return f" [default: {value}, or as the running plan]"


def plan(
    profiles: Annotated[
        list[Path], typer.Option(metavar="FILE", help="profiles, repeatable; measured ones count before computed ones")
    ],
    out: Annotated[Path, typer.Option(callback=writable_file, help="plan to write")],
    config: ConfigOption = None,
    models: ModelsOption = None,
    cluster: OptionalClusterOption = None,
    running: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN",
            help="plan.json that runs now: change little of it, and keep its models, cluster and requirements where no "
            "option says otherwise",
        ),
    ] = None,
    prompts: PromptsOption = None,
    outcomes: OutcomesOption = None,
    predictor: PredictorOption = None,
    rate: RateOption = None,
    budget_per_request_usd: Annotated[
        float | None,
        typer.Option(min=0, help="mean cost of a request, USD; inf: no limit" + _default("inf")),
    ] = None,
    budget_usd_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0, help="USD an hour for GPUs in use and bought tokens together; inf: no limit" + _default("inf")
        ),
    ] = None,
    success_usd: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="what one more good answer is worth in USD: GPUs and bought tokens have to earn it"
            + _default("0.01, or as much as the budget per hour allows where there is one"),
        ),
    ] = None,
    gpu_usd_per_hour: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE=USD", help="price of a GPU of this type, before those of the cluster's file; repeatable"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=0, help="requests that run at once; 0: by rate and latency" + _default("0"))
    ] = None,
    batches: Annotated[
        int | None, typer.Option(min=1, help="batches that are sampled from the workload" + _default("20"))
    ] = None,
    target_utilisation: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1, help="share of the replicas' tokens/s that the mean demand may take" + _default("0.8")
        ),
    ] = None,
    first_token_s: Annotated[
        float | None,
        typer.Option(min=0.001, help="seconds to the first token; inf: no bound" + _default("inf")),
    ] = None,
    token_s: Annotated[
        float | None,
        typer.Option(min=0.0001, help="seconds for each further token; inf: no bound" + _default("inf")),
    ] = None,
    total_s: Annotated[
        float | None,
        typer.Option(min=0.001, help="seconds to the end of the answer; inf: no bound" + _default("inf")),
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.999, help="share of the requests that keeps these bounds" + _default("0.95")),
    ] = None,
    cache_safety: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=1,
            help="chance that the cache of a replica suffices for as many sequences as it may run; else vLLM "
            "interrupts one and computes it again; 1: as many as whole contexts fit" + _default("0.99"),
        ),
    ] = None,
    high_availability: Annotated[
        bool | None,
        typer.Option(
            "--high-availability/--no-high-availability",
            help="no model loses all its replicas when one node dies" + _default("no"),
        ),
    ] = None,
    reserve_gpu: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="share of one GPU that stays free for the predictor, its `num_gpus` in the configuration"
            + _default("0"),
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="plan on this lower quantile of the predicted success, e.g. 0.25; 0: on its mean" + _default("0"),
        ),
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="plan for the rate that this share of all minutes does not pass, e.g. 0.95; 0: for the mean rate"
            + _default("0"),
        ),
    ] = None,
    low_rate: Annotated[float | None, typer.Option(help="rate of quiet hours, for autoscaling's bounds")] = None,
    high_rate: Annotated[float | None, typer.Option(help="rate of busy hours, for autoscaling's bounds")] = None,
    gpu_price: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="mean success that a GPU has to earn, whatever it costs [default: by --success-usd and its price; "
            "where no price is known 0.001 for all of them together; or as the running plan]",
        ),
    ] = None,
    move_price: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="mean success that starting or stopping one replica of the running plan has to earn "
            f"[default: {MOVE_PRICE:g}]",
        ),
    ] = None,
    hours: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with `hours`, a list of {begins: '07:00', rate_per_s: 12}: a plan for each part of the day, "
            "close to the one before, written beside OUT as OUT-0700, and when to begin each change",
        ),
    ] = None,
    engine_start_s: Annotated[
        float, typer.Option(min=0, help="seconds until an engine answers once its weights are there, for --hours")
    ] = 60.0,
    weights_gib_per_s: Annotated[
        float, typer.Option(min=0.001, help="GiB of weights a second that a new replica gets, for --hours")
    ] = 1.0,
    gap: Annotated[float, typer.Option(min=0, help="relative gap to prove")] = 1e-3,
    time_limit_s: Annotated[float, typer.Option(min=1, help="seconds for the search; the best by then counts")] = 60.0,
    trades: Annotated[
        bool, typer.Option(help="say what a GPU more or less would change; takes up to half the time limit again")
    ] = True,
    seed: Annotated[int | None, typer.Option(help="seed of the sampled batches" + _default("0"))] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Decide how many replicas of which model run on which share of which GPU, so that expected success is the highest
    that GPUs, budget and rate allow.

    A fifth of the requests is held out, and the plan is tried on it at 1, 1.2 and 1.5 times the load. With `--running`
    replicas that stay keep their GPUs, and every start and every stop has to earn its price.

    Examples: `apportion plan --config serve_config.yaml --cluster cluster.yaml --profiles profiles.yaml --out plan.json
    --prompts requests.jsonl --predictor predictor/`, and later `apportion plan --running plan.json --profiles
    profiles.yaml --out next.json --prompts today.jsonl --predictor predictor/`
    """
    from apportion.allocation.day import StartUp, load_hours, plan_day
    from apportion.allocation.plan import load_plan, save_plan
    from apportion.allocation.planner import PlanOptions, make_plan, options_of
    from apportion.allocation.replica import load_profiles

    before = None if running is None else load_plan(running)
    if hours is not None and (running is not None or low_rate is not None or rate is not None):
        raise InvalidRequestError("--hours: holds the rates of the day; leave --running, --rate and --low-rate out")
    if before is None and hours is None and move_price is not None:
        raise InvalidRequestError("--move-price: nothing runs that could move; give --running too, or leave it out")
    there = _cluster(cluster, before).priced(_prices(gpu_usd_per_hour or ()))
    specs = _specs(config, models, there, before)
    known = load_profiles(*profiles)
    check_profiles(specs, known)
    _warn_of_models_left_out(there, specs, known)
    day = None if hours is None else load_hours(hours)
    rate = rate if day is None else max(part.rate_per_s for part in day)
    workload = read_workload(specs, prompts, outcomes, predictor, rate, encoder, device)
    kept = PlanOptions() if before is None else options_of(before)
    requirements = _changed(
        kept.requirements,
        budget_usd=budget_per_request_usd,
        budget_usd_per_hour=budget_usd_per_hour,
        success_usd=success_usd,
        target_utilisation=target_utilisation,
        high_availability=high_availability,
        reserved_gpu_fraction=reserve_gpu,
        gpu_price=gpu_price,
        move_price=MOVE_PRICE if (before is not None or day is not None) and move_price is None else move_price,
    )
    changed = _changed(
        kept,
        requirements=requirements,
        batch_size=batch_size,
        n_batches=batches,
        seed=seed,
        quantile=quantile,
        cache_safety=cache_safety,
        latency=_changed(
            kept.latency, first_token_s=first_token_s, token_s=token_s, total_s=total_s, percentile=percentile
        ),
        peak=peak,
        low_rate_per_s=low_rate,
        high_rate_per_s=high_rate,
        gap=gap,
        time_limit_s=time_limit_s,
        trades=trades,
    )
    options = replace(
        changed,
        batch_size=changed.batch_size or None,
        quantile=changed.quantile or None,
        peak=changed.peak or None,
    )
    inputs = _hashes(running=running, config=config, models=models, cluster=cluster, prompts=prompts)
    inputs |= _hashes(outcomes=outcomes, predictor=predictor)
    inputs |= _hashes(**{f"profiles.{number}": file for number, file in enumerate(profiles)})
    if day is not None:
        start_up = StartUp(engine_start_s, weights_gib_per_s)
        _report_day(plan_day(there, specs, known, workload, day, options, start_up, inputs), out, json_file)
        return
    made = make_plan(
        there, specs, known, workload, options, running=() if before is None else before.placements, inputs=inputs
    )
    save_plan(made.plan, out)
    _warn_of_requests_left_out(workload, made)
    _report(made, before, out, json_file)


def _cluster(given: str | None, before: Plan | None) -> Cluster:
    if given is not None:
        return read_cluster(given)
    if before is None:
        raise InvalidRequestError("--cluster: missing; give the cluster to plan for, or --running, whose cluster it is")
    return before.cluster


def _prices(given: Sequence[str]) -> dict[str, float]:
    """USD an hour by GPU type, of `TYPE=USD`."""
    prices = {}
    for one in given:
        gpu_type, _, usd = one.partition("=")
        try:
            price = float(usd)
        except ValueError:
            price = math.nan
        if not (gpu_type and 0 <= price < math.inf):
            raise InvalidRequestError(f"--gpu-usd-per-hour {one}: no price; give it as TYPE=USD, such as H100=2.5")
        prices[gpu_type] = price
    return prices


def _specs(config: Path | None, models: Path | None, cluster: Cluster, before: Plan | None) -> tuple[ModelSpec, ...]:
    if before is not None and config is None and models is None:
        return before.models
    return read_models(config, models, cluster.gpu_types).specs


def _report(made: Planned, before: Plan | None, out: Path, json_file: Path | None) -> None:
    from apportion.allocation.near import moves_between
    from apportion.allocation.report import moves_table, show

    moves = None if before is None else moves_between(before.placements, made.plan.placements)
    if write_json(_result(made, moves), json_file):
        return
    show(made.plan, console)
    if moves is not None:
        console.print(moves_table(moves))
    console.print(f"{out} written in {made.wall_time_s:.1f} s", highlight=False)


def _report_day(turns: Sequence[Turn], out: Path, json_file: Path | None) -> None:
    """Writes a plan for each part of the day, and says what changes when."""
    from rich.table import Table

    from apportion.allocation.plan import save_plan

    rows = []
    for turn in turns:
        file = out.with_stem(f"{out.stem}-{turn.part.clock.replace(':', '')}")
        save_plan(turn.planned.plan, file)
        used = len({(p.node, gpu) for p in turn.planned.plan.placements for gpu in p.gpus})
        rows.append(
            {
                "from": turn.part.clock,
                "begin": turn.begin,
                "rate_per_s": turn.part.rate_per_s,
                "gpus": used,
                "start": len(turn.moves.started),
                "stop": len(turn.moves.stopped),
                "success": round(turn.planned.plan.expected_quality, 4),
                "plan": str(file),
            }
        )
    if write_json({"hours": rows}, json_file):
        return
    table = Table(*("from", "begin", "requests/s", "GPUs", "start", "stop", "success", "plan"), title="the day")
    for row in rows:
        table.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    for row, turn in zip(rows, turns, strict=True):
        if turn.planned.plan.bounds:
            console.print(f"{row['plan']} holds bounds for autoscaling over the day", highlight=False)


def _warn_of_models_left_out(cluster: Cluster, specs: tuple[ModelSpec, ...], known: tuple[Profile, ...]) -> None:
    from rich.text import Text

    from apportion.allocation.problem import usable_profiles

    usable = {profile.replica.model for profile in usable_profiles(cluster, specs, known)}
    for name in (spec.name for spec in specs if spec.name not in usable and spec.quota is None):
        errors.print(
            Text("Warning:", style="yellow"),
            f"no profile of {name!r} fits this cluster, so the plan leaves it out; profile it "
            "with other shares or GPU counts, or allow it other GPU types",
            highlight=False,
            soft_wrap=True,
        )


def _warn_of_requests_left_out(workload: Workload, made: Planned) -> None:
    rows = made.left_out
    if not len(rows):
        return
    estimates = workload.estimates
    tokens = (estimates.input_tokens[rows] + estimates.output_tokens[rows]).min(axis=1)
    warn(
        f"{len(rows)} of {len(workload)} requests are too long for every model that fits this cluster, or none can "
        f"read them, so the plan leaves them out; the first is {workload.place(rows[0])}, the longest has "
        f"{tokens.max():,.0f} tokens with its answer; raise max_model_len (and profile again) if they have to be served"
    )


def _changed(options: Changeable, **given: Any) -> Changeable:
    """With the values that were given; those that are None stay as they are."""
    return replace(options, **{name: value for name, value in given.items() if value is not None})


def _hashes(**files: Path | str | None) -> dict[str, str]:
    """SHA-256 of the inputs that are files or folders, by name."""
    from apportion.allocation.plan import file_hash

    return {name: file_hash(file) for name, file in files.items() if file is not None and Path(file).exists()}


def _result(made: Planned, moves: Moves | None) -> dict[str, Any]:
    from dataclasses import asdict

    plan, bill = made.plan, made.bill
    return {
        "expected_quality": plan.expected_quality,
        "expected_cost_usd": plan.expected_cost_usd,
        "objective": plan.objective,
        "bound": plan.bound,
        "gap": plan.gap,
        "usd_per_hour": bill.usd_per_hour,
        "gpus_usd_per_hour": bill.gpus_usd_per_hour,
        "bought_usd_per_hour": bill.bought_usd_per_hour,
        "idle_usd_per_hour": bill.idle_usd_per_hour,
        "usd_per_million_tokens": bill.usd_per_million_tokens,
        "trades": [asdict(one) for one in plan.trades],
        "timed_out": made.optimum.timed_out,
        "wall_time_s": made.wall_time_s,
        "rate_per_s": plan.rate_per_s,
        "utilisation": plan.utilisation,
        "replicas": {str(replica): number for replica, number in sorted(plan.counts.items())},
        "latencies": [asdict(one) for one in plan.latencies],
        "held_out": [asdict(one) for one in plan.assessments],
        "bounds": {str(one.replica): [one.min_replicas, one.max_replicas] for one in plan.bounds},
        **({} if moves is None else {"started": len(moves.started), "stopped": len(moves.stopped)}),
    }
