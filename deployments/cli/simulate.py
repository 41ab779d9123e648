"""`apportion simulate`: a workload replayed against a plan, request by request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, console, write_json
from apportion.deployments.cli.models import check_profiles
from apportion.deployments.cli.workloads import (
    EncoderOption,
    OutcomesOption,
    PredictorOption,
    PromptsOption,
    read_workload,
)

LOADS = (1.0, 1.2, 1.5)


def simulate(
    plan: Annotated[Path, typer.Argument(help="plan.json")],
    prompts: PromptsOption = None,
    outcomes: OutcomesOption = None,
    predictor: PredictorOption = None,
    load: Annotated[
        list[float] | None, typer.Option(help="times the plan's rate, repeatable; default: 1, 1.2 and 1.5")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="draw so many, with Poisson arrivals; default: each once")
    ] = None,
    deadline_s: Annotated[float, typer.Option(min=0, help="an answer that takes longer is not good")] = 30.0,
    patience_s: Annotated[
        float, typer.Option(min=0, help="a request that has found no free slot for so long is refused")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="seed of draws and arrivals")] = 0,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Say how long requests would wait and take, how full the engines would be, and how many answers come in time.

    Requests wait in one line and are assigned batch by batch, as the service does, by the slots that are free at that
    moment; engines serve them as fast as their profiles say. What happens outside the engines (HTTP, planning) is left
    out, and how long models from outside take.

    Example: `apportion simulate plan.json --prompts requests.jsonl --predictor predictor/`
    """
    from apportion.allocation.plan import load_plan
    from apportion.allocation.replay import replay
    from apportion.allocation.simulate import simulate as run

    loaded = load_plan(plan)
    check_profiles(loaded.models, loaded.profiles, by_hand=True)
    workload = read_workload(loaded.models, prompts, outcomes, predictor, loaded.rate_per_s, encoder, device)
    names = [model.name for model in loaded.models]
    results = []
    for factor in load or LOADS:
        traffic = replay(loaded, workload, load=factor, requests=requests, patience_s=patience_s, seed=seed)
        summary = run(loaded, traffic).summary(names, deadline_s)
        results.append({"load": factor, "rate_per_s": loaded.rate_per_s * factor, **summary})
    if not write_json({"deadline_s": deadline_s, "loads": results}, json_file):
        _print(results, deadline_s)


def _print(results: list[dict[str, Any]], deadline_s: float) -> None:
    from rich.table import Table

    table = Table(title="what the plan would do")
    for column in ("load", "requests/s", "tokens/s", "latency p50 / 95 / 99 s", "waited p95 s", "queue", "slots used"):
        table.add_column(column, justify="right")
    table.add_column("refused", justify="right")
    table.add_column(f"within {deadline_s:g} s", justify="right")
    for row in results:
        latencies = " / ".join(f"{row[f'latency_s_p{level}']:.2f}" for level in (50, 95, 99))
        table.add_row(
            f"{row['load']:g}",
            f"{row['requests_per_s']:.2f}",
            f"{row['tokens_per_s']:,.0f}",
            latencies,
            f"{row['waited_s_p95']:.2f}",
            f"{row['queue_mean']:.1f}",
            f"{row['slots_used_mean']:.0%}",
            f"{row['refused']:.1%}",
            f"{row['within_deadline']:.1%}",
        )
    console.print(table)
    models = Table("model at load", "requests", "tokens/s", "latency p50 / 95 / 99 s", "waited p95 s")
    for row in results:
        for name, part in row["models"].items():
            latencies = " / ".join(f"{part[f'latency_s_p{level}']:.2f}" for level in (50, 95, 99))
            models.add_row(
                f"{name} at {row['load']:g}",
                str(part["requests"]),
                f"{part['tokens_per_s']:,.0f}",
                latencies,
                f"{part['waited_s_p95']:.2f}",
            )
    console.print(models)
