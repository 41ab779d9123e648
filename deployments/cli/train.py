"""`apportion train`: outcomes in, a predictor's artefact out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apportion.deployments.cli.application import (
    DeviceOption,
    JsonOption,
    console,
    is_given,
    stage_bars,
    warn,
    writable_folder,
    write_json,
)
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
from apportion.router.errors import ConfigurationError
from apportion.router.prediction.estimators import described, storable

if TYPE_CHECKING:
    from apportion.router.prediction.predictor import Predictor


_OF_A_NEW_ARTEFACT = (
    *("estimator", "members", "neighbours", "calibration_share", "test_share"),
    *("vocabulary", "compare_rows"),
)
_SETTING = {"members": "members", "neighbours": "k"}
"""Options that are settings of an estimator, under the names that its recipe gives them."""


def train(
    context: typer.Context,
    data: DataOption,
    out: Annotated[Path, typer.Option(callback=writable_folder, help="folder to write the artefact to")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help=f"sentence encoder: {NAMES}; with --add-to where the artefact's own transformer lies now {DEFAULT}"
        ),
    ] = None,
    vocabulary: Annotated[
        int,
        typer.Option(min=1, help="static vectors: tokens that get one, those of the prompts first, then the commonest"),
    ] = 32_768,
    compare_rows: CompareRowsOption = COMPARE_ROWS,
    estimator: Annotated[
        str, typer.Option(help=f"what learns from the embeddings: {described(stored_only=True)}")
    ] = "head",
    members: Annotated[int, typer.Option(min=1, help="ensemble members; their spread feeds the robust strategies")] = 8,
    neighbours: Annotated[int, typer.Option(min=1, help="k of the knn estimator")] = 40,
    calibration_share: Annotated[
        float, typer.Option(min=0.02, max=0.5, help="share of the rows that stops training and calibrates")
    ] = 0.1,
    test_share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="share of the rows that only the report sees; 0 for none")
    ] = 0.2,
    add_to: Annotated[
        Path | None,
        typer.Option(
            help="artefact to add the data's new models to, calibrated on a tenth of the rows; its own models keep "
            "their estimates"
        ),
    ] = None,
    group: GroupOption = None,
    seed: Annotated[int, typer.Option(help="seed of split, bootstrap and training")] = 0,
    cache: CacheOption = True,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Train a calibrated predictor of success and answer length from past outcomes.

    The table holds, for past prompts, the score in [0, 1] of each model that answered, and token counts and
    costs where known; what is missing stays out of the loss. The artefact is one folder: it holds the
    models' names and prices, the estimator, its calibration, and how well calibrated it is; and static vectors, where
    they are what it reads prompts with. What they lose to the transformer, and what it costs, is said.

    Example: `apportion train --data outcomes/ --out predictor/`
    """
    from apportion.router.outcomes.notices import unseen
    from apportion.router.prediction.encoders import Encoders, bare, default_encoder
    from apportion.router.prediction.predictor import Predictor
    from apportion.router.prediction.training import add_models, train_predictor

    given = [name for name in _OF_A_NEW_ARTEFACT if is_given(context, name)]
    if add_to is not None and given:
        raise ConfigurationError(
            f"--{given[0].replace('_', '-')}: --add-to keeps the artefact's own estimator and calibrates on a tenth of "
            "the rows, leave it out"
        )
    recipe = storable(estimator, **{_SETTING[name]: context.params[name] for name in given if name in _SETTING})
    source = encoder or default_encoder(device)
    if bare(source) == source and "vocabulary" in given:
        raise ConfigurationError(f"--vocabulary: {source} has no static vectors, leave it out")
    table, told = read_data(data, group)
    for text in (hints := unseen(table)):
        warn(text)
    comparison = None
    with stage_bars() as progress:
        if add_to is not None:
            grown = Predictor.load(add_to, encoder=encoder, device=device)
            keep_vectors(grown.encoder, cache)
            predictor = add_models(grown, table, seed=seed, progress=progress)
        else:
            encoders = Encoders.load(source, device, table.prompts, vocabulary)
            keep_vectors(encoders.transformer, cache)
            fractions = (1 - calibration_share - test_share, calibration_share, test_share)
            predictor = train_predictor(
                table, encoders.of(source), estimator=recipe, fractions=fractions, seed=seed, progress=progress
            )
            comparison = compared(table, encoders, recipe, compare_rows, progress, fractions=fractions, seed=seed)
    predictor.save(out)
    found = summary(predictor, out) | {"warnings": told + hints, "encoders": comparison and comparison.as_json()}
    if not write_json(found, json_file):
        print_summary(predictor, out)
        if comparison is not None:
            print_comparison(comparison, predictor.encoder.source)


def summary(predictor: Predictor, out: Path) -> dict[str, Any]:
    """What was trained, for machines."""
    from apportion.router.prediction.cascading import cascades_record

    record = cascades_record(predictor.gate)
    return {
        "artefact": str(out),
        "models": dict(zip(predictor.models, predictor.mean_success.tolist(), strict=True)),
        "encoder": predictor.encoder.source,
        "calibration": [report.model_dump() for report in predictor.reports],
        "cascades": None if record is None else record.model_dump(),
    }


def print_summary(predictor: Predictor, out: Path) -> None:
    """What was trained, for people."""
    from rich.table import Table

    models = Table("model", "mean score", title=f"Artefact {out}")
    for model, mean in zip(predictor.models, predictor.mean_success.tolist(), strict=True):
        models.add_row(model, f"{mean:.3f}")
    console.print(models)
    reports = Table("rows of", "requests", "ECE", "calibrated", "Brier", "calibrated")
    for r in predictor.reports:
        errors = (r.ece_before, r.ece_after, r.brier_before, r.brier_after)
        reports.add_row(r.split, str(r.rows), *(f"{value:.4f}" for value in errors))
    console.print(reports)
    if predictor.gate is not None:
        for text in predictor.gate.sentences:
            console.print(f"{text}.", soft_wrap=True, highlight=False)
