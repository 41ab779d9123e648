"""`apportion assign`: a file of prompts, a budget and a deadline in, the model of every prompt out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from apportion.deployments.assigning.here import predict_here
from apportion.deployments.assigning.on_ray import predict_on_ray
from apportion.deployments.assigning.predictions import Predictions, RowEstimator, file_hash
from apportion.deployments.assigning.result import check_out, write_result
from apportion.deployments.cli.application import (
    DeviceOption,
    JsonOption,
    console,
    stage_bars,
    writable_file,
    write_json,
)
from apportion.deployments.cli.models import ConfigOption, ModelsOption, read_models
from apportion.deployments.cli.strategies import read_strategy
from apportion.deployments.config.bulk import window_s
from apportion.router.assignment import Strategy
from apportion.router.assignment.options import OPTIONS_HELP, STRATEGY_HELP
from apportion.router.assignment.program import picked
from apportion.router.errors import BudgetExceededError, InfeasibleError, InvalidRequestError
from apportion.router.jobs.planning.options import PlanOptions
from apportion.router.jobs.planning.plan import JobPlan, plan_job
from apportion.router.jobs.planning.shortfall import Shortfall
from apportion.router.jobs.planning.workload import Means, Workload
from apportion.router.prediction.prompts import RequestFile
from apportion.router.variants import engines_of, model_of

if TYPE_CHECKING:
    from apportion.deployments.cli.limits import FileLimit
    from apportion.router.arrays import FloatArray
    from apportion.router.prediction.predictor import Predictor
    from apportion.router.prices import ModelPrice

UNLIMITED = 2.0**53


def assign(
    artefact: Annotated[Path, typer.Argument(help="Artefact that `apportion train` wrote.")],
    file: Annotated[
        Path,
        typer.Argument(
            help='Prompts: one a line; or .jsonl with {"prompt": ...}, {"messages": [...]} or a line of the Batch API; '
            "or .csv or .parquet with a column prompt or messages. Rows may carry max_tokens, n and tools."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            callback=writable_file, help=".csv or .parquet to write: request, prompt, model, success, cost_usd."
        ),
    ],
    budget_usd: Annotated[float | None, typer.Option(min=0, help="What the whole file may cost, USD.")] = None,
    budget_per_request_usd: Annotated[
        float | None, typer.Option(min=0, help="The same, as a mean per request, USD.")
    ] = None,
    slots: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=N", help="At most N answers by a model, in all its variants; repeatable."),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Time for the whole file, as 90m or 24h; needs --tokens-per-s.")
    ] = None,
    tokens_per_s: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=N", help="Tokens that a model generates in a second in all, in all its variants; repeatable."
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Limits on several models together, a list `limits:` of {name, models, of: requests|tokens|cost_usd, "
            "at_most, or share: of the file's requests}.",
        ),
    ] = None,
    best_effort: Annotated[
        bool,
        typer.Option(
            "--best-effort", help="Where not all can be answered, as many as possible; the others have no model."
        ),
    ] = False,
    strategy: Annotated[str, typer.Option(help=STRATEGY_HELP)] = "mip",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help=f"An option of the strategy; repeatable. {OPTIONS_HELP} A model may be given by its name.",
        ),
    ] = None,
    gap: Annotated[
        float | None, typer.Option(min=0, help="Relative gap to prove (mip, robust_mip). [default: 0.0001]")
    ] = None,
    time_limit_s: Annotated[
        float | None, typer.Option(help="Seconds for the solver; the best answer by then counts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of strategies that draw.")] = 0,
    config: ConfigOption = None,
    models: ModelsOption = None,
    encoder: Annotated[
        str | None, typer.Option(help="Where the artefact's encoder lies now, if not where it was trained.")
    ] = None,
    device: DeviceOption = "auto",
    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray|ray:HOST:PORT",
            help="Who predicts: this machine, or Ray Data on the cluster that it belongs to, or on that one.",
        ),
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes that predict on Ray.")] = 2,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep predictions there, for another budget or deadline. [default: beside --out, until it is written; "
            "a run that is cut off goes on with them]",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Choose for every prompt of a file the model that answers it, so that expected success is the highest that
    budget, deadline and slots allow. Where they are too tight, say how much would do.

    With --config or --models, costs are those that the service expects: their prices and context lengths, counted by
    their tokenizers. Else prices are the artefact's, the encoder's tokenizer counts, and no context ends an answer.

    Example: `apportion assign predictor/ prompts.txt --budget-usd 0.25 --out plan.csv`
    """
    if budget_usd is not None and budget_per_request_usd is not None:
        raise InvalidRequestError("give --budget-usd or --budget-per-request-usd, not both")
    check_out(out)
    _check_engine(engine)
    names = _names(artefact, config, models)  # before what takes seconds to load, so that typos are found at once
    chosen = read_strategy(strategy, option or [], names, gap, time_limit_s)
    means = _means(names, budget_usd, window, tokens_per_s or [], slots or [])
    limited = () if limits is None else _limits(limits, names)
    requests = RequestFile.checked(file)
    means = replace(means, limits=tuple(limit.limit(names, requests.rows) for limit in limited))
    made = partial(_estimator, artefact, config, models, encoder, device, chosen.needs_samples)
    loaded = made()
    if budget_per_request_usd is not None:
        means = replace(means, budget_usd=budget_per_request_usd * requests.rows)
    kept = Predictions(predictions or out.with_name(f"{out.name}.predictions"))
    about = {"file": file_hash(file), "artefact": file_hash(artefact), **loaded.about()}
    kept.open(about, anew=predictions is None)
    _predict(requests, kept, loaded, made, engine, workers, device)
    engines, engine_of = engines_of(names)
    workload = kept.workload(requests.rows, len(names), best_effort=best_effort)
    workload = replace(workload, row_of_column=engine_of)
    started = time.perf_counter()
    plan = _plan(workload, means, chosen, best_effort)
    wall_s = time.perf_counter() - started
    write_result(out, requests, workload, plan.model_of_row, names)
    if predictions is None:
        kept.remove()
    counted = "encoder" if loaded.estimator.counter is None else "models"
    result = _summary(names, engines, workload, means, plan, chosen) | {
        "input_tokens_counted_by": counted,
        "wall_time_s": wall_s,
    }
    if not write_json(result, json_file):
        _print(result, out)


def _limits(path: Path, columns: tuple[str, ...]) -> tuple[FileLimit, ...]:
    from apportion.deployments.cli.limits import read_limits  # reads files as the planner does, which is slow to load

    return read_limits(path, columns)


def _check_engine(engine: str) -> None:
    if engine != "local" and engine.partition(":")[0] != "ray":
        raise InvalidRequestError(f"--engine {engine!r}: use local, ray or ray:HOST:PORT")


def _names(artefact: Path, config: Path | None, models: Path | None) -> tuple[str, ...]:
    """The models or variants that requests are assigned to, without what predicts them."""
    from apportion.router.prediction.artefact import read_description

    known = read_description(artefact).names
    if config is None and models is None:
        return known
    return tuple(column.name for spec in read_models(config, models).specs for column in spec.columns)


def _estimator(
    artefact: Path, config: Path | None, models: Path | None, encoder: str | None, device: str, samples: bool = False
) -> RowEstimator:
    """What estimates the requests, with the models' prices in its order."""
    from apportion.allocation.workload import answer_bounds
    from apportion.deployments.cli.workloads import fleet_predictor, models_counter
    from apportion.router.prediction.estimation import RequestEstimator
    from apportion.router.prediction.predictor import Predictor

    if config is None and models is None:
        predictor = Predictor.load(artefact, encoder=encoder, device=device)
        return RowEstimator(RequestEstimator(predictor), _prices(predictor), samples)
    columns = [column for spec in read_models(config, models).specs for column in spec.columns]
    fleet = fleet_predictor(artefact, columns, encoder, device)
    estimator = RequestEstimator(fleet, models_counter(columns), *answer_bounds(columns))
    return RowEstimator(estimator, [column.price for column in columns], samples)


def _prices(predictor: Predictor) -> list[ModelPrice]:
    missing = sorted(set(predictor.models) - set(predictor.prices))
    if missing:
        raise InvalidRequestError(
            f"artefact: knows no price of {', '.join(missing)}; give --models, or train it on outcomes with "
            "input_price_per_1M and output_price_per_1M (columns of the long file, or of models.csv in the folder)"
        )
    return [predictor.prices[model] for model in predictor.models]


def _means(
    models: tuple[str, ...], budget_usd: float | None, window: str | None, speeds: list[str], slots: list[str]
) -> Means:
    """What the file may cost and take; variants of a model share its slots and its speed."""
    budget, engines = math.inf if budget_usd is None else budget_usd, engines_of(models)[0]
    if window is None:
        if speeds:
            raise InvalidRequestError("--tokens-per-s: says nothing without --window; give the time for the whole file")
        if not slots:
            return Means(budget)
        return Means(budget, slots=_by_model("--slots", slots, engines, UNLIMITED).astype(np.int64))
    if slots:
        raise InvalidRequestError("--slots: not beside --window, which limits models by their speed; leave one out")
    if not speeds:
        raise InvalidRequestError("--window: needs --tokens-per-s MODEL=N, or nobody knows what it is enough for")
    try:
        seconds = window_s(window)
    except ValueError as wrong:
        raise InvalidRequestError(f"--window: {wrong}") from None
    return Means(budget, seconds, _by_model("--tokens-per-s", speeds, engines, 0.0))


def _by_model(option: str, given: list[str], models: tuple[str, ...], otherwise: float) -> FloatArray:
    values = dict.fromkeys(models, otherwise)
    for entry in given:
        model, _, number = entry.rpartition("=")
        if model not in values and (own := model_of(model)) in values:
            raise InvalidRequestError(
                f"{option} {entry!r}: variants of a model share its engines; write {own}=N for all of them"
            )
        if model not in values or not number.isdigit():
            raise InvalidRequestError(
                f"{option} {entry!r}: write MODEL=N with a whole number and a model of {', '.join(models)}"
            )
        values[model] = int(number)
    return np.array(list(values.values()), dtype=np.float64)


def _predict(
    requests: RequestFile, kept: Predictions, loaded: RowEstimator, made: Callable[[], RowEstimator], engine: str,
    workers: int, device: str,
) -> None:  # fmt: skip
    if engine == "local":
        with stage_bars() as bars:
            predict_here(requests, kept, loaded, lambda done: bars("predict", done, requests.rows))
        return
    address = engine.partition(":")[2]
    gpu = device.startswith("cuda")
    predict_on_ray(requests, kept, made, address=address or None, workers=workers, gpu=gpu)


def _plan(workload: Workload, means: Means, strategy: Strategy, best_effort: bool) -> JobPlan:
    plan = plan_job(workload, means, PlanOptions(strategy=strategy, best_effort=best_effort))
    if isinstance(plan, Shortfall):
        kind = BudgetExceededError if plan.missing == "budget" else InfeasibleError
        raise kind(plan.message)
    return plan


def _summary(
    models: tuple[str, ...],
    engines: tuple[str, ...],
    workload: Workload,
    means: Means,
    plan: JobPlan,
    strategy: Strategy,
) -> dict[str, Any]:
    """What was planned; `engines` are the models that slots and time are of."""
    model = plan.model_of_row
    placed = np.flatnonzero(model >= 0)
    return {
        "strategy": strategy.name,
        "status": plan.status.value,
        "requests": len(model),
        "left_out": len(plan.left_out),
        "expected_success": float(workload.success[placed, model[placed]].mean()) if placed.size else 0.0,
        "expected_cost_usd": plan.planned_usd,
        "cost_std_usd": plan.planned_std_usd,
        "expected_s": plan.seconds,
        "gap": plan.gap if plan.gap < math.inf else None,
        "binding": [_named(row, engines, plan.seconds is not None) for row in plan.binding],
        "requests_by_model": {name: int((model == j).sum()) for j, name in enumerate(models)},
        "limits": _used(workload, means, plan),
    }


def _used(workload: Workload, means: Means, plan: JobPlan) -> dict[str, dict[str, Any]]:
    """By each limit's name: what it allows, what of that the plan takes, and what one more would add to the objective.

    `price` is None where the strategy knows none.
    """
    rows = [limit.row(workload) for limit in means.limits]
    prices = plan.prices.limits.tolist() if plan.gap < math.inf else [None] * len(rows)
    return {
        limit.name: {
            "of": limit.of,
            "at_most": limit.at_most,
            "used": float(picked(row.use, plan.model_of_row).sum()),
            "price": price,
        }
        for limit, row, price in zip(means.limits, rows, prices, strict=True)
    }


def _named(row: str, models: tuple[str, ...], timed: bool) -> str:
    """`slots[3]` with the model's name for its number; with a deadline slots are time."""
    return f"{'time' if timed else 'slots'}[{models[int(row[6:-1])]}]" if row.startswith("slots[") else row


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    proof = "" if result["gap"] is None else f", proved within {result['gap']:.1e} of the best"
    console.print(f"{result['requests']} requests in {out}: {result['strategy']}, {result['status']}{proof}")
    console.print(
        f"expected success {result['expected_success']:.3f}, cost {result['expected_cost_usd']:.4g} "
        f"± {result['cost_std_usd']:.2g} USD, limited by {', '.join(result['binding']) or 'nothing'}"
    )
    if result["expected_s"] is not None:
        console.print(f"done in {result['expected_s'] / 60:.1f} min, if models are as fast as was said")
    if result["left_out"]:
        console.print(f"{result['left_out']} requests have no model: not all can be answered with that")
    counted = {"encoder": "the encoder's tokenizer", "models": "the models' tokenizers"}
    for name, one in result["limits"].items():
        worth = f", one more is worth {one['price']:.3g}" if one["price"] else ""
        console.print(f"limit {name}: {one['used']:.6g} of {one['at_most']:.6g} {one['of']}{worth}", highlight=False)
    console.print(f"input tokens counted with {counted[result['input_tokens_counted_by']]}")
    table = Table("model", "requests")
    for model, count in result["requests_by_model"].items():
        table.add_row(model, str(count))
    console.print(table)
