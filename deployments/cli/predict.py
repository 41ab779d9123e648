"""`apportion predict`: what every model would make of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, console, write_json
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.prompts import read_prompts

if TYPE_CHECKING:
    from apportion.router.prediction.prediction import Prediction
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
        raise InvalidRequestError("prompt: give either one prompt or --file")
    from apportion.router.prediction.predictor import Predictor

    texts = [prompt] if prompt is not None else read_prompts(file)  # type: ignore[arg-type]
    predictor = Predictor.load(artefact, encoder=encoder, device=device)
    rows = _rows(texts, predictor, predictor.predict(texts))
    if not write_json(rows, json_file):
        _print(rows, predictor.models)


def _rows(texts: list[str], predictor: Predictor, prediction: Prediction) -> list[dict[str, Any]]:
    """One object a prompt, with one object a model."""
    import numpy as np

    before_lift = prediction.success if prediction.calibrated_success is None else prediction.calibrated_success
    cost_usd = np.full(prediction.success.shape, np.nan)
    if set(predictor.models) <= set(predictor.prices):
        prices = [predictor.prices[model] for model in predictor.models]
        cost_usd, _ = prediction.cost_usd(predictor.encoder.count_tokens(texts), prices)
    columns = {
        "success": prediction.success,
        "calibrated_success": before_lift,
        "success_std": prediction.success_std,
        "output_tokens": prediction.output_tokens,
        "cost_usd": cost_usd,
    }
    return [
        {
            "prompt": text,
            "models": {
                model: {key: _number(values[i, j]) for key, values in columns.items()}
                for j, model in enumerate(predictor.models)
            },
        }
        for i, text in enumerate(texts)
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
