"""`python -m benchmarks NAME`: one command an experiment. What is heavy is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from apportion.deployments import zoo
from apportion.router.threads import share_cores
from benchmarks.experiments.registry import SUMMARIES, available

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

Config = Annotated[Path, typer.Option(help="The configuration that the service runs.")]
Url = Annotated[str, typer.Option(help="Where the service answers.")]
Seed = Annotated[int, typer.Option(help="Seed of prompts, draws and bootstraps.")]
Data = Annotated[Path, typer.Option(help="Folder of outcomes tables, or one of them.")]
Out = Annotated[Path, typer.Option(help="Folder for JSON, Markdown and plots.")]
Seeds = Annotated[int, typer.Option(min=2, help="Random splits to repeat everything on.")]
EncoderOption = Annotated[
    str, typer.Option(help="Sentence encoder: a folder, a hub id, or minilm; static: or both: before it.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
CacheFolder = Annotated[Path, typer.Option(help="Folder for encoded prompts and fitted estimators.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The smallest size that runs every line.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there as JSON.")]

CONFIG = Path("serve_config.yaml")
URL = "http://127.0.0.1:8000"
DATA, OUT, CACHE = Path("data"), Path("out/results"), Path("out/cache")
RESULTS, PAGE = Path("docs/results"), Path("docs/results.md")


@app.command()
def e2e(
    config: Config = CONFIG,
    url: Url = URL,
    prompts: Annotated[int, typer.Option(min=20, help="Held-out graded prompts.")] = 600,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    seed: Seed = 0,
    cascade: Annotated[bool, typer.Option("--cascade", help="`auto` with cascades and without, instead.")] = False,
    json_file: Json = None,
) -> None:
    """Graded prompts through the running service: single models, random mixtures, `auto` at three budgets."""
    if cascade:
        from benchmarks.e2e.cascade import run, show
    else:
        from benchmarks.e2e.run import run, show

    result = run(config, url, prompts, concurrency, seed, console)
    show(result, console)
    _write(result, json_file)


@app.command()
def unproved(
    out: Annotated[Path, typer.Option(help="Folder to write the artefact to.")] = Path("out/unproved"),
) -> None:
    """The zoo's artefact with its likeliest cascade, proved or not, as predictor.artefact for `e2e --cascade`."""
    from benchmarks.e2e.unproved import write

    trial = write(out)
    console.print(f"{out}: {trial.first}>{trial.second}, which the gate {'opens' if trial.passed else 'does not open'}")


@app.command()
def overhead(
    config: Config = CONFIG,
    requests: Annotated[int, typer.Option(min=50, help="Requests of a round.")] = 240,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all cases, in turn.")] = 3,
    ingresses: Annotated[
        int, typer.Option(min=0, help="Most ingress replicas for the ceiling, from 1 on; 0: none.")
    ] = 4,
    proxies: Annotated[bool, typer.Option(help="Run LiteLLM, Switchyard and vllm-router beside.")] = True,
    json_file: Json = None,
) -> None:
    """CPU and latency that routing costs, beside the engine, Serve's passthrough, and other proxies."""
    from benchmarks.overhead import report
    from benchmarks.overhead.run import run

    replicas = [number for number in (1, 2, 4, 8, 16) if number <= ingresses]
    result = run(config, requests, rounds, replicas, proxies, console)
    _tell(result, report, json_file)


@app.command()
def throughput(
    config: Config = CONFIG,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every load, in turn.")] = 3,
    scale: Annotated[float, typer.Option(min=0.05, help="Of the numbers of requests.")] = 1.0,
    first_token_s: Annotated[float, typer.Option(min=0.001, help="Goodput: latest first token of a stream.")] = 0.5,
    latency_s: Annotated[float, typer.Option(min=0.001, help="Goodput: latest end of an answer.")] = 1.0,
    vllm: Annotated[bool, typer.Option(help="Let `vllm bench serve` measure too.")] = True,
    goodput: Annotated[
        bool, typer.Option("--goodput", help="Requests in time with and without routing by time, instead.")
    ] = False,
    window_s: Annotated[float, typer.Option(min=1, help="With --goodput: seconds of arrivals of a window.")] = 6.0,
    target_percentile: Annotated[
        float, typer.Option(min=1, max=99, help="With --goodput: the target, among seconds of routing by success.")
    ] = 75.0,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Graded prompts through the service, beside the same straight to its engines; what else FILE holds stays there."""
    from benchmarks.load.numbers import Target
    from benchmarks.throughput import in_time, report
    from benchmarks.throughput.run import run

    known = json.loads(json_file.read_text()) if json_file is not None and json_file.exists() else {}
    if goodput:
        part = in_time.run(config, rounds, window_s, target_percentile, seed, console)
        result = {"stamp": part["stamp"], **known, "in_time": part}
    else:
        result = known | run(config, rounds, scale, Target(first_token_s, latency_s), seed, vllm, console)
    _tell(result, report, json_file)


@app.command()
def room(
    requests: Annotated[int, typer.Option(min=8, help="Requests of a case in a round.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all cases, in turn.")] = 9,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The Router's CPU for a request: idle, overloaded, and with many budgets; without Ray and HTTP."""
    from benchmarks.room import report
    from benchmarks.room.run import run

    result = run(requests, rounds, seed, console)
    _tell(result, report, json_file)


@app.command()
def profiles(
    engine: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An earlier result, whose numbers of vLLM are taken; default: it builds all."
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Computed sizes beside the installed vLLM's own arithmetic, and speeds beside published ones; needs no GPU."""
    from apportion.router.torch_companions import hide_misfits

    hide_misfits()
    from benchmarks.profiles import report
    from benchmarks.profiles.run import run

    _tell(run(engine, console), report, json_file)


@app.command()
def ceiling(
    requests: Annotated[int, typer.Option(min=8, help="Requests of a case in a round.")] = 8_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all cases, in turn.")] = 3,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """How many requests a second one Router decides: queues, budgets, ingresses, and what is in flight."""
    from benchmarks.ceiling import report
    from benchmarks.ceiling.run import run

    result = run(requests, rounds, seed, console)
    _tell(result, report, json_file)


@app.command()
def lanes(
    config: Config = CONFIG,
    window_s: Annotated[float, typer.Option(min=1, help="Seconds of a window of interactive requests.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Windows without a job, and as many with one.")] = 3,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the job that runs alone.")] = 5_000,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """What interactive requests notice of a bulk job, and how fast one goes; simulated engines."""
    from benchmarks.lanes import report
    from benchmarks.lanes.run import Size, run

    result = run(config, Size(window_s, rounds, rows), seed, console)
    _tell(result, report, json_file)


@app.command()
def cascades(
    data: Data = DATA,
    seeds: Seeds = 5,
    encoder: EncoderOption = "static:minilm",
    workers: Workers = 1,
    cache: CacheFolder = CACHE,
    smoke: Smoke = False,
    json_file: Json = None,
) -> None:
    """A cheap answer first: what cascades gain over routing at equal spend; exit 1 where a proved pair loses."""
    share_cores()
    from benchmarks.cascades import report
    from benchmarks.cascades.run import run
    from benchmarks.experiments.cache import Cache
    from benchmarks.experiments.context import Context

    result = run(Context(data, Cache(cache), encoder, seeds, workers, smoke, Console(stderr=True)))
    _tell(result, report, json_file)
    if result["lost"]:
        raise typer.Exit(1)


@app.command()
def goodput(
    window_s: Annotated[float, typer.Option(min=5, help="Seconds of virtual time in which requests come.")] = 60,
    seeds: Seeds = 5,
    json_file: Json = None,
) -> None:
    """Requests that end in time with and without routing by time: the Router's plans, simulated engines."""
    from benchmarks.goodput import report
    from benchmarks.goodput.run import run

    _tell(run(window_s, seeds, console), report, json_file)


@app.command()
def sharding(
    requests: Annotated[int, typer.Option(min=64, help="Requests of a period, over all Routers.")] = 1_024,
    seeds: Seeds = 10,
    json_file: Json = None,
) -> None:
    """What several Routers that share slots and money would lose against one: a simulation."""
    from benchmarks.sharding import report
    from benchmarks.sharding.run import run

    result = run(requests, seeds, console)
    _tell(result, report, json_file)


@app.command()
def signals(
    config: Config = CONFIG,
    model: Annotated[str, typer.Option(help="Whose engine is started.")] = "heron",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all three ways, in turn.")] = 60,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one way in a round, about.")] = 0.5,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """What it costs a real engine to tell how sure it was, at 1, 16 and 64 requests at a time."""
    from benchmarks.signals import report
    from benchmarks.signals.run import run

    _tell(run(config, model, rounds, seconds, seed, console), report, json_file)


@app.command()
def outcomes(
    out: Annotated[Path, typer.Option(help="Folder for the outcomes table.")],
    config: Config = CONFIG,
    url: Url = URL,
    prompts: Annotated[int, typer.Option(min=20, help="Prompts of the predictor's split.")] = 4000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 48,
    model: Annotated[
        list[str] | None, typer.Option(help="Ask this one alone, whose column of the table is replaced; repeatable.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Ask every served model every prompt and save the graded answers; `apportion train` learns from them."""
    from benchmarks.zoo.outcomes import collect

    how = {"prompts": prompts, "seed": seed, "concurrency": concurrency}
    table = collect(config, url, out, split="predictor", console=console, only=model or (), **how)
    means = dict(zip(table.models, table.scores.mean(axis=0).round(3).tolist(), strict=True))
    console.print(f"{len(table)} prompts in {out}; right answers: {means}")


@app.command()
def predictor(
    artefact: Annotated[Path, typer.Option(help="Artefact of the predictor.")] = zoo.PREDICTOR,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of encoder and predictor, in turn.")] = 15,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The whole predictor beside its bare encoder, for batches of 1 to 1,024 texts."""
    share_cores()
    from benchmarks.predictor import run, show

    result = run(artefact, device, rounds, seed)
    show(result, console)
    _write(result, json_file)


@app.command("all")
def run_all(
    data: Data = DATA,
    out: Out = OUT,
    seeds: Seeds = 5,
    encoder: EncoderOption = "minilm",
    workers: Workers = 2,
    cache: CacheFolder = CACHE,
    smoke: Smoke = False,
) -> None:
    """Every experiment that starts no service."""
    for name in available():
        _experiment(name, data, out, seeds, encoder, workers, cache, smoke)


@app.command()
def results(
    folder: Annotated[Path, typer.Option("--results", help="Folder of the JSON files.")] = RESULTS,
    out: Annotated[Path, typer.Option(help="The page to write.")] = PAGE,
) -> None:
    """Write the pages and plots of all results again from their JSON files."""
    from benchmarks.experiments.report import found_in, page, render

    for name in found_in(folder):
        render(name, folder)
    out.write_text(page(folder))
    console.print(f"Wrote {out}, and pages and plots in {folder}.")


def _add_experiment(name: str, summary: str) -> None:
    def command(
        data: Data = DATA,
        out: Out = OUT,
        seeds: Seeds = 5,
        encoder: EncoderOption = "minilm",
        workers: Workers = 2,
        cache: CacheFolder = CACHE,
        smoke: Smoke = False,
    ) -> None:
        _experiment(name, data, out, seeds, encoder, workers, cache, smoke)

    app.command(name, help=summary)(command)


def _experiment(
    name: str, data: Path, out: Path, seeds: int, encoder: str, workers: int, cache: Path, smoke: bool
) -> None:
    share_cores()
    from benchmarks.experiments.cache import Cache
    from benchmarks.experiments.context import Context
    from benchmarks.experiments.report import experiment

    context = Context(data, Cache(cache), encoder, seeds, workers, smoke, Console(stderr=True))
    experiment(name, context, out)
    console.print(f"Wrote {out / name}.json, {name}.md and plots.")


for _name in available():
    _add_experiment(_name, SUMMARIES[_name])


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


def _tell(result: dict[str, Any], report: Any, json_file: Path | None) -> None:
    """A result that has a page of its own: on the screen, and beside its JSON where that is wanted."""
    from benchmarks.load.report import write

    report.show(result, console)
    if json_file is not None:
        write(result, report, json_file)


def _write(result: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    app()
