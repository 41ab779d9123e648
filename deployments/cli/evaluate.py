"""`apportion evaluate`: what routing would gain on your own outcomes, all arms at the same spend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, console, stage_bars, warn, write_json
from apportion.deployments.cli.encoders import (
    COMPARE_ROWS,
    DEFAULT,
    NAMES,
    CacheOption,
    CompareRowsOption,
    compared,
    keep_vectors,
    print_comparison,
)
from apportion.deployments.cli.workloads import DataOption, GroupOption, read_data
from apportion.router.prediction.estimators import described
from apportion.router.prediction.estimators import estimator as recipe

if TYPE_CHECKING:
    from apportion.router.evaluation.protocol import Evaluation


def evaluate(
    data: DataOption,
    seeds: Annotated[int, typer.Option(min=1, help="random splits to repeat everything on")] = 5,
    encoder: Annotated[str | None, typer.Option(help=f"sentence encoder: {NAMES} {DEFAULT}")] = None,
    compare_rows: CompareRowsOption = COMPARE_ROWS,
    estimator: Annotated[
        list[str] | None,
        typer.Option(help=f"{described()}; repeatable [default: head and knn-40]"),
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="an arm to run; repeatable [default: all]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="requests that are routed together")] = 256,
    adversarial: Annotated[
        bool, typer.Option("--adversarial", help="sort requests so that costly ones share a batch")
    ] = False,
    slots_share: Annotated[
        float | None, typer.Option(help="slots of every model as a share of the batch [default: no limit]")
    ] = None,
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="leave out models with a larger share of outcomes missing")
    ] = 0.03,
    group: GroupOption = None,
    cache: CacheOption = True,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw score against budget there")] = None,
) -> None:
    """Measure on past outcomes what every way of routing scores at every budget.

    70 % of the requests train, 10 % calibrate, 20 % test, and those of one prompt stay together; budgets are shares of
    what the best single model costs, and all arms are compared at the same realised spend. What is printed ends with
    the single models, what was left out, and one sentence on whether routing is shown to gain. Before that, the
    encoder's alternatives are compared on what the first split does not test, with the first estimator. `--json` writes
    one row for every seed, arm, estimator and budget.

    Example: `apportion evaluate --data outcomes/ --seeds 5 --plot frontier.png`
    """
    import math

    from apportion.router.evaluation.arms import ARMS
    from apportion.router.evaluation.batches import Setting
    from apportion.router.evaluation.case import usable
    from apportion.router.evaluation.protocol import evaluate as run
    from apportion.router.evaluation.verdict import left_out
    from apportion.router.outcomes.table import FRACTIONS
    from apportion.router.prediction.encoders import Encoders, default_encoder
    from apportion.router.prediction.preparation import complete_tokens, encode_in_steps

    recipes = {name: recipe(name) for name in estimator or ["head", "knn-40"]}
    setting = Setting(
        batch_size, "adversarial" if adversarial else "random", math.inf if slots_share is None else slots_share
    )
    if plot is not None:
        from apportion.router.evaluation.plot import check_plot

        check_plot(plot)
    table, _ = read_data(data, group)
    with stage_bars() as progress:
        source = encoder or default_encoder(device)
        encoders = Encoders.load(source, device, table.prompts)
        keep_vectors(encoders.transformer, cache)
        loaded = encoders.of(source)
        completed = complete_tokens(table, loaded)
        table = usable(completed, max_missing)
        unseen = list(left_out(completed, table, max_missing))
        for one in unseen:
            warn(one)
        first = next(iter(recipes.values()))
        comparison = compared(table, encoders, first, compare_rows, progress, fractions=FRACTIONS, seed=0)
        features = encode_in_steps(table, loaded, progress)
        found = run(table, features, recipes, arms=arm or tuple(ARMS), seeds=seeds, setting=setting, progress=progress)
    if not write_json(found.as_json(), json_file):
        if comparison is not None:
            print_comparison(comparison, loaded.source)
        print_evaluation(found)
        _print_words(found, unseen)
    if plot is not None:
        from apportion.router.evaluation.plot import draw

        draw(found, plot)


def print_evaluation(found: Evaluation) -> None:
    """Score of every arm as a share of the best single model's, and its area, for people."""
    from rich.box import SIMPLE
    from rich.table import Table

    from apportion.router.evaluation.protocol import BUDGET_FRACTIONS
    from apportion.router.evaluation.statistics import Summary, summarise_areas, summarise_rows

    best = Summary.of([row.best_single_score for row in found.rows])
    areas, summaries = summarise_areas(found.measures), summarise_rows(found.rows)
    for estimator in dict.fromkeys(name for name, _ in summaries):
        title = f"{estimator}: score over the best single model's ({best.mean:.3f}) by share of its cost"
        table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("arm", no_wrap=True)
        for heading in (*(f"{fraction:.0%}" for fraction in BUDGET_FRACTIONS), "area"):
            table.add_column(heading, justify="right", no_wrap=True)
        for (name, arm), by_fraction in summaries.items():
            if name == estimator:
                cells = (by_fraction[fraction].mean for fraction in BUDGET_FRACTIONS)
                shown = ["-" if cell != cell else f"{cell:.3f}" for cell in cells]
                table.add_row(arm, *shown, f"{areas[name, arm].mean:.4f}")
        console.print(table)
    errors = Table("estimator", "seed", "ECE", "calibrated", "Brier", "calibrated")
    for (seed, estimator), e in found.errors.items():
        values = (e.ece_before, e.ece_after, e.brier_before, e.brier_after)
        errors.add_row(estimator, str(seed), *(f"{value:.4f}" for value in values))
    console.print(errors)


def _print_words(found: Evaluation, unseen: list[str]) -> None:
    """The single models, what was left out, and what it all comes to."""
    from rich.table import Table

    from apportion.router.evaluation.verdict import cascades, singles, verdict

    alone = Table("single model", "score", "USD a request")
    for one in singles(found):
        alone.add_row(one.model, str(one.score), f"{one.cost_usd:.3g}")
    console.print(alone)
    for text in (*unseen, *cascades(found)):
        console.print(f"{text}.", soft_wrap=True, highlight=False)
    said = verdict(found)
    if said is not None:
        console.print(f"{said}.", soft_wrap=True, highlight=False)
