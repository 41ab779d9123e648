"""The options by which commands take a workload: requests or recorded outcomes, a predictor, a rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import warn
from apportion.router.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.models import ModelSpec
    from apportion.allocation.workload import Workload
    from apportion.router.outcomes.table import OutcomesTable
    from apportion.router.prediction.fleet_predictor import FleetPredictor
    from apportion.router.prediction.tokens import TokenCounter

PromptsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="prompts, one a line, or .jsonl with `prompt` or `messages` a line, and where known `max_tokens`, `n`, "
        "`tools` and `arrival_s`; needs --predictor",
    ),
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
DataOption = Annotated[
    str,
    typer.Option(
        help="outcomes: a folder of parquet files, one CSV, JSONL or parquet, or routerbench:WHERE, "
        "sprout:WHERE, uncertainty-bench:WHERE with a path or hub id"
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="column of the outcomes: rows with the same value are never parted into training and test [default: rows "
        "with the same prompt]",
    ),
]
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

    Raises:
        InvalidRequestError: the options do not go together.
    """
    from apportion.allocation.workload import predicted_workload, read_timed_requests, recorded_workload
    from apportion.router.prediction.prompts import PromptRequest

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
        asked = zip(table.prompts, table.traits, strict=True)
        requests, arrivals = [PromptRequest(prompt, traits=traits) for prompt, traits in asked], None
    elif predictor is None or prompts is None:
        raise InvalidRequestError("--predictor: missing, and prompts need one; give the artefact that scores them")
    else:
        requests, arrivals = read_timed_requests(prompts)
    columns = [column for spec in specs for column in spec.columns]
    scorer = fleet_predictor(predictor, columns, encoder, device)
    counter = models_counter(columns)
    return predicted_workload(requests, scorer, specs, counter=counter, rate_per_s=rate_per_s, arrival_s=arrivals)


def fleet_predictor(artefact: Path, specs: Sequence[ModelSpec], encoder: str | None, device: str) -> FleetPredictor:
    """What predicts the models, in their order; warns of those that the artefact does not know."""
    from apportion.router.prediction.fleet_predictor import FleetPredictor

    loaded = FleetPredictor.load(
        artefact, {spec.name: spec.prior_success for spec in specs}, encoder=encoder, device=device
    )
    for spec in specs:
        if spec.name in loaded.known.models:
            continue
        if spec.prior_success is None:
            warn(
                f"the predictor does not know {spec.name}, so no request goes there; state its prior_success, or train "
                "the predictor on outcomes of it"
            )
        else:
            warn(f"the predictor does not know {spec.name}; its prior_success {spec.prior_success:g} stands for it")
    return loaded


def read_data(source: str, group: str | None) -> tuple[OutcomesTable, list[str]]:
    """The outcomes table of --data and --group, and what was told of it on the error stream."""
    from apportion.router.outcomes.loaders import load_outcomes
    from apportion.router.outcomes.notices import notices

    table = load_outcomes(source, group)
    told = notices(table)
    for text in told:
        warn(text)
    return table, told


def models_counter(specs: Sequence[ModelSpec]) -> TokenCounter | None:
    """The models' own tokenizers; None, with a warning, where this machine lacks one of them.

    A model from outside without one counts as the first that has one does: by bytes alone its prompts would have
    several times the tokens that its provider counts.
    """
    from apportion.deployments.config.counting import tokenizer_source
    from apportion.deployments.config.models import resolve_source
    from apportion.router.prediction.tokens import TokenCounter, TokenizerSource

    try:
        known = {
            spec.name: tokenizer_source(resolve_source(spec.source), spec.counting) for spec in specs if spec.source
        }
        otherwise = next(iter(known.values()), TokenizerSource(None))
        sources = {spec.name: known.get(spec.name, otherwise) for spec in specs}
        return TokenCounter.load(sources, download=False)
    except ConfigurationError as error:
        warn(
            "input tokens are counted with the encoder's tokenizer and without chat templates, for "
            + error.message.splitlines()[0]
        )
        return None
