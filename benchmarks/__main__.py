"""`python -m benchmarks NAME`: one command an experiment. What is heavy is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

Config = Annotated[Path, typer.Option(help="The configuration that the service runs.")]
Url = Annotated[str, typer.Option(help="Where the service answers.")]
Seed = Annotated[int, typer.Option(help="Seed of prompts, draws and bootstraps.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there as JSON.")]

CONFIG = Path("serve_config.yaml")
URL = "http://127.0.0.1:8000"


@app.command()
def e2e(
    config: Config = CONFIG,
    url: Url = URL,
    prompts: Annotated[int, typer.Option(min=20, help="Held-out graded prompts.")] = 600,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Graded prompts through the running service: single models, random mixtures, `auto` at three budgets."""
    from benchmarks.e2e.run import run, show

    result = run(config, url, prompts, concurrency, seed, console)
    show(result, console)
    _write(result, json_file)


@app.command()
def overhead(
    config: Config = CONFIG,
    requests: Annotated[int, typer.Option(min=50, help="Requests of a round.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all cases, in turn.")] = 3,
    json_file: Json = None,
) -> None:
    """CPU and latency that routing costs, beside Ray Serve's own passthrough; engines are simulated."""
    from benchmarks.overhead.run import run, show

    result = run(config, requests, rounds, console)
    show(result, console)
    _write(result, json_file)


@app.command()
def outcomes(
    out: Annotated[Path, typer.Option(help="Folder for the outcomes table.")],
    config: Config = CONFIG,
    url: Url = URL,
    prompts: Annotated[int, typer.Option(min=20, help="Prompts of the predictor's split.")] = 4000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 48,
    seed: Seed = 0,
) -> None:
    """Ask every served model every prompt and save the graded answers; `apportion train` learns from them."""
    from benchmarks.zoo.outcomes import collect

    table = collect(
        config, url, out, split="predictor", prompts=prompts, seed=seed, concurrency=concurrency, console=console
    )
    means = dict(zip(table.models, table.scores.mean(axis=0).round(3).tolist(), strict=True))
    console.print(f"{len(table)} prompts in {out}; right answers: {means}")


@app.command()
def predictor(
    artefact: Annotated[Path, typer.Option(help="Artefact of the predictor.")] = Path("benchmarks/zoo/predictor"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of encoder and predictor, in turn.")] = 15,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The whole predictor beside its bare encoder, for batches of 1 to 256 texts."""
    from benchmarks.predictor import run, show

    result = run(artefact, device, rounds, seed)
    show(result, console)
    _write(result, json_file)


@app.command()
def simulation(
    window_s: Annotated[float, typer.Option(min=1, help="Seconds of each load.")] = 8.0,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The simulator of plans beside real engines under the same requests: the zoo, half a core a model."""
    from benchmarks.simulation.run import run, show

    result = run(window_s, seed, console)
    show(result, console)
    _write(result, json_file)


@app.command()
def allocation(
    data: Annotated[Path, typer.Option(help="Folder that holds mmlu_pro_cot/ and routerbench_part/.")],
    out: Annotated[Path, typer.Option(help="Folder for allocation.json and allocation.png.")],
    seeds: Annotated[int, typer.Option(min=2, help="Random splits to repeat everything on.")] = 5,
) -> None:
    """Planned, greedy, proportional and uniform allocations of the same GPUs on held-out requests."""
    from benchmarks.allocation.report import draw, show, summary
    from benchmarks.allocation.run import run

    result = run(data, seeds, console)
    result["summary"] = summary(result["rows"])
    show(result, console)
    _write(result, out / "allocation.json")
    draw(result, out / "allocation.png")


@app.command()
def planning(
    time_limit_s: Annotated[float, typer.Option(min=1, help="Time limit of a search.")] = 60.0,
    json_file: Json = None,
) -> None:
    """How long plans for up to 256 GPUs take, and how near to the best they are proved to be."""
    from benchmarks.allocation.scale import run, show

    result = run(time_limit_s)
    show(result, console)
    _write(result, json_file)


def _write(result: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    app()
