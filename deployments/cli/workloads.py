"""The options by which commands take a workload: prompts or recorded outcomes, a predictor, a rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.models import ModelSpec
    from apportion.allocation.workload import Workload

PromptsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="prompts, .jsonl with `arrival_s` where known; needs --predictor"),
]
OutcomesOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="recorded outcomes instead of prompts; with --predictor only their prompts count; without, the recorded "
        "scores do, which is hindsight: the plan then promises more than a router can keep",
    ),
]
PredictorOption = Annotated[Path | None, typer.Option(metavar="DIR", help="artefact that scores the prompts")]
RateOption = Annotated[
    float | None, typer.Option(min=0, help="requests per second; default: that of the prompts' `arrival_s`")
]
EncoderOption = Annotated[
    str | None, typer.Option(help="where the artefact's encoder lies now, if not where it was trained")
]


def read_workload(
    specs: Sequence[ModelSpec],
    prompts: Path | None,
    outcomes: str | None,
    predictor: Path | None,
    rate_per_s: float | None,
    encoder: str | None,
    device: str,
) -> Workload:
    """The workload that the options describe.

    Raises InvalidRequestError for options that do not go together.
    """
    from apportion.allocation.workload import predicted_workload, read_requests, recorded_workload

    if (prompts is None) == (outcomes is None):
        raise InvalidRequestError(
            "--prompts, --outcomes: no workload, or two; give --prompts with --predictor, or --outcomes"
        )
    if outcomes is not None:
        from apportion.router.outcomes.loaders import load_outcomes

        if rate_per_s is None:
            raise InvalidRequestError("--rate: missing, and outcomes have no arrival times; give requests per second")
        table = load_outcomes(outcomes)
        if predictor is None:
            return recorded_workload(table, specs, rate_per_s)
        texts, arrivals = table.prompts, None
    elif predictor is None or prompts is None:
        raise InvalidRequestError("--predictor: missing, and prompts need one; give the artefact that scores them")
    else:
        texts, arrivals = read_requests(prompts)
    from apportion.router.prediction.predictor import Predictor

    scorer = Predictor.load(predictor, encoder=encoder, models=[spec.name for spec in specs], device=device)
    return predicted_workload(texts, scorer, specs, rate_per_s=rate_per_s, arrival_s=arrivals)
