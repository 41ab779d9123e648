"""`apportion calibrate`: an artefact calibrated anew on fresh outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apportion.deployments.cli.application import DeviceOption, JsonOption, stage_bars, write_json
from apportion.deployments.cli.train import print_summary, summary
from apportion.deployments.cli.workloads import EncoderOption, read_data


def calibrate(
    artefact: Annotated[Path, typer.Argument(help="artefact that `apportion train` wrote")],
    data: Annotated[str, typer.Option(help="fresh outcomes of the same models, in any format of `train`")],
    out: Annotated[
        Path | None,
        typer.Option(help="folder to write the calibrated artefact to; left out: over the old one"),
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Fit the calibration of an artefact anew on fresh outcomes; the estimator itself stays as it is.

    Do this when prompts or models have drifted and the predicted success no longer agrees with what is
    observed. The data must not hold prompts that the artefact was trained on.

    Example: `apportion calibrate predictor/ --data last_week.jsonl`
    """
    from apportion.router.prediction.predictor import Predictor
    from apportion.router.prediction.training import recalibrate

    table, told = read_data(data, None)
    with stage_bars() as progress:
        predictor = recalibrate(Predictor.load(artefact, encoder=encoder, device=device), table, progress)
    target = out or artefact
    predictor.save(target)
    if not write_json(summary(predictor, target) | {"warnings": told}, json_file):
        print_summary(predictor, target)
