"""`apportion predict`: what every model would make of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, console, write_json
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.prompts import PromptRequest, read_requests

if TYPE_CHECKING:
    from apportion.router.prediction.predictor import Predictor


def predict(
    artefact: Annotated[Path, typer.Argument(help="artefact that `apportion train` wrote")],
    prompt: Annotated[str | None, typer.Argument(help="the prompt; or use --file")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='prompts: one a line, or .jsonl with {"prompt": ...} or {"messages": [...]} a line'),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="where the artefact's encoder lies now, if not where it was trained")
    ] = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Predict every model's success, answer length and cost for one prompt or a file of them.

    Input tokens are counted with the encoder's tokenizer here, since only the server knows the models' own;
    costs are at the list prices of the artefact. `calibrated` is the chance of a good answer by past outcomes;
    `success`, which routing goes by, is higher for the best single model where another one promises more than past
    outcomes prove.

    Example: `apportion predict predictor/ "What is 348 plus 87?"`
    """
    if (prompt is None) == (file is None):
        raise InvalidRequestError("give either one prompt or --file, not both")
    if prompt is not None and not prompt.strip():
        raise InvalidRequestError("prompt: empty; write what is asked")
    from apportion.router.prediction.predictor import Predictor

    requests = [PromptRequest(prompt)] if prompt is not None else read_requests(file)  # type: ignore[arg-type]
    predictor = Predictor.load(artefact, encoder=encoder, device=device)
    rows = _rows(requests, predictor)
    if not write_json(rows, json_file):
        _print(rows, predictor.models)


def _rows(requests: list[PromptRequest], predictor: Predictor) -> list[dict[str, Any]]:
    """One object a request, with one object a model."""
    import numpy as np

    from apportion.router.prediction.estimation import RequestEstimator
    from apportion.router.prices import ModelPrice

    known = set(predictor.models) <= set(predictor.prices)
    prices = [predictor.prices[model] if known else ModelPrice(0, 0) for model in predictor.models]
    estimates = RequestEstimator(predictor).estimate(requests, prices)
    columns = {
        "success": estimates.success,
        "calibrated_success": estimates.before_lift(),
        "success_std": np.asarray(estimates.success_std),
        "output_tokens": estimates.output_tokens,
        "cost_usd": estimates.cost_usd if known else np.full(estimates.success.shape, np.nan),
    }
    return [
        {
            "prompt": request.text,
            "models": {
                model: {key: _number(values[i, j]) for key, values in columns.items()}
                for j, model in enumerate(predictor.models)
            },
        }
        for i, request in enumerate(requests)
    ]


def _number(value: float) -> float | None:
    """JSON has no NaN: unknown is null."""
    return None if value != value else float(value)


def _print(rows: list[dict[str, Any]], models: tuple[str, ...]) -> None:
    from rich.table import Table

    for row in rows:
        table = Table(
            "model", "success", "calibrated", "spread", "output tokens", "cost, USD", title=_short(row["prompt"])
        )
        for model in models:
            cell = row["models"][model]
            table.add_row(
                model,
                f"{cell['success']:.3f}",
                f"{cell['calibrated_success']:.3f}",
                f"{cell['success_std']:.3f}",
                "-" if cell["output_tokens"] is None else f"{cell['output_tokens']:.0f}",
                "-" if cell["cost_usd"] is None else f"{cell['cost_usd']:.3g}",
            )
        console.print(table)


def _short(text: str, width: int = 70) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
