"""`apportion assign`: a file of prompts and a budget in, the model of every prompt out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, console, write_json
from apportion.deployments.cli.models import ConfigOption, ModelsOption, read_models
from apportion.deployments.cli.strategies import read_strategy
from apportion.router.assignment.options import OPTIONS_HELP, STRATEGY_HELP
from apportion.router.errors import BudgetExceededError, InfeasibleError, InvalidRequestError
from apportion.router.prediction.prompts import PromptRequest, read_requests

if TYPE_CHECKING:
    from apportion.router.assignment import Assignment, BatchProblem
    from apportion.router.estimates import Estimates
    from apportion.router.prediction.estimation import RequestEstimator
    from apportion.router.prediction.predictor import Predictor
    from apportion.router.prices import ModelPrice


def assign(
    artefact: Annotated[Path, typer.Argument(help="Artefact that `apportion train` wrote.")],
    file: Annotated[
        Path,
        typer.Argument(
            help='Prompts: one a line, or .jsonl with {"prompt": ...} or {"messages": [...]} a line, which may also '
            "carry max_tokens, n and tools."
        ),
    ],
    out: Annotated[Path, typer.Option(help="CSV to write: request, prompt, model, success, cost_usd.")],
    budget_usd: Annotated[float | None, typer.Option(min=0, help="What the whole file may cost, USD.")] = None,
    budget_per_request_usd: Annotated[
        float | None, typer.Option(min=0, help="The same, as a mean per request, USD.")
    ] = None,
    slots: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=N", help="At most N answers by a model; repeatable.")
    ] = None,
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
    json_file: JsonOption = None,
) -> None:
    """Choose for every prompt of a file the model that answers it, so that expected success is the highest that
    the budget and the slots allow.

    With --config or --models, costs are those that the service expects: their prices and context lengths, counted by
    their tokenizers. Else prices are the artefact's, the encoder's tokenizer counts, and no context ends an answer.

    Example: `apportion assign predictor/ prompts.txt --budget-usd 0.25 --out plan.csv`
    """
    from apportion.router.assignment import assign as assign_batch

    if budget_usd is not None and budget_per_request_usd is not None:
        raise InvalidRequestError("give --budget-usd or --budget-per-request-usd, not both")
    requests = read_requests(file)
    estimator, prices = _estimator(artefact, config, models, encoder, device)
    names = estimator.predictor.models
    chosen = read_strategy(strategy, option or [], names, gap, time_limit_s)
    budget = budget_usd if budget_per_request_usd is None else budget_per_request_usd * len(requests)
    answers = [request.sequences for request in requests]
    problem = _estimates(estimator, requests, prices).problem(
        np.array(_slots(slots or [], names, sum(answers))),
        float("inf") if budget is None else budget,
        sequences=np.array(answers),
    )
    answer = assign_batch(problem, chosen, seed=seed)
    if answer.infeasibility is not None:
        kind = BudgetExceededError if answer.infeasibility.row == "budget" else InfeasibleError
        raise kind(answer.infeasibility.message)
    _write(out, requests, names, problem, answer)
    counted = "encoder" if estimator.counter is None else "models"
    result = _summary(names, answer) | {"input_tokens_counted_by": counted}
    if not write_json(result, json_file):
        _print(result, out)


def _estimator(
    artefact: Path, config: Path | None, models: Path | None, encoder: str | None, device: str
) -> tuple[RequestEstimator, list[ModelPrice]]:
    """What estimates the requests, and the models' prices in its order."""
    from apportion.deployments.cli.workloads import fleet_predictor, models_counter
    from apportion.router.prediction.estimation import RequestEstimator
    from apportion.router.prediction.predictor import Predictor

    if config is None and models is None:
        predictor = Predictor.load(artefact, encoder=encoder, device=device)
        return RequestEstimator(predictor), _prices(predictor)
    specs = read_models(config, models).specs
    fleet = fleet_predictor(artefact, specs, encoder, device)
    context = np.array([spec.max_model_len for spec in specs], dtype=np.float64)
    return RequestEstimator(fleet, models_counter(specs), context), [spec.price for spec in specs]


def _prices(predictor: Predictor) -> list[ModelPrice]:
    missing = sorted(set(predictor.models) - set(predictor.prices))
    if missing:
        raise InvalidRequestError(
            f"artefact: knows no price of {', '.join(missing)}; give --models, or train it on outcomes with "
            "input_price_per_1M and output_price_per_1M (columns of the long file, or of models.csv in the folder)"
        )
    return [predictor.prices[model] for model in predictor.models]


def _estimates(estimator: RequestEstimator, requests: list[PromptRequest], prices: list[ModelPrice]) -> Estimates:
    from apportion.router.prediction.estimation import routed

    estimates = routed(estimator.estimate(requests, prices), estimator.predictor)
    for row, error in estimates.errors.items():
        raise InvalidRequestError(f"request {row + 1}: {error.message}")
    if not np.isfinite(estimates.cost_usd).all():
        raise InvalidRequestError(
            "artefact: predicts no answer lengths, so costs are unknown; train it on outcomes with tokens or costs"
        )
    return estimates


def _slots(given: list[str], models: tuple[str, ...], n_answers: int) -> list[int]:
    slots = dict.fromkeys(models, n_answers)
    for entry in given:
        model, _, number = entry.rpartition("=")
        if model not in slots or not number.isdigit():
            raise InvalidRequestError(
                f"--slots {entry!r}: write MODEL=N with a whole number and a model of {', '.join(models)}"
            )
        slots[model] = int(number)
    return list(slots.values())


def _write(
    out: Path, requests: list[PromptRequest], models: tuple[str, ...], problem: BatchProblem, answer: Assignment
) -> None:
    import pandas as pd

    rows = np.arange(len(requests))
    columns = {
        "request": rows,
        "prompt": [request.text for request in requests],
        "model": [models[j] for j in answer.model],
        "success": problem.success[rows, answer.model],
        "cost_usd": problem.cost_usd[rows, answer.model],
    }
    pd.DataFrame(columns).to_csv(out, index=False)


def _summary(models: tuple[str, ...], answer: Assignment) -> dict[str, Any]:
    counts = {model: int((answer.model == j).sum()) for j, model in enumerate(models)}
    return {
        "strategy": answer.strategy,
        "status": answer.status.value,
        "requests": len(answer.model),
        "expected_success": answer.expected_success,
        "expected_cost_usd": answer.expected_cost_usd,
        "cost_std_usd": answer.cost_std_usd,
        "gap": answer.gap if answer.gap < float("inf") else None,
        "binding": [_named(row, models) for row in answer.binding],
        "requests_by_model": counts,
        "wall_time_s": answer.wall_time_s,
    }


def _named(row: str, models: tuple[str, ...]) -> str:
    """`slots[3]` with the model's name for its number."""
    return f"slots[{models[int(row[6:-1])]}]" if row.startswith("slots[") else row


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    proof = "" if result["gap"] is None else f", proved within {result['gap']:.1e} of the best"
    console.print(f"{result['requests']} requests in {out}: {result['strategy']}, {result['status']}{proof}")
    console.print(
        f"expected success {result['expected_success']:.3f}, cost {result['expected_cost_usd']:.4g} "
        f"± {result['cost_std_usd']:.2g} USD, limited by {', '.join(result['binding']) or 'nothing'}"
    )
    counted = {"encoder": "the encoder's tokenizer", "models": "the models' tokenizers"}
    console.print(f"input tokens counted with {counted[result['input_tokens_counted_by']]}")
    table = Table("model", "requests")
    for model, count in result["requests_by_model"].items():
        table.add_row(model, str(count))
    console.print(table)
