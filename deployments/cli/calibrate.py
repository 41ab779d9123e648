"""`apportion calibrate`: an artefact calibrated anew, on fresh outcomes or on a service's records."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import (
    DeviceOption,
    JsonOption,
    console,
    stage_bars,
    writable_folder,
    write_json,
)
from apportion.deployments.cli.encoders import CacheOption, keep_vectors
from apportion.deployments.cli.outcomes import AskedOption, DaysOption, KeyOption, read_records
from apportion.deployments.cli.train import print_summary, summary
from apportion.deployments.cli.workloads import EncoderOption, read_data
from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.router.prediction.candidate import Comparison
    from apportion.router.prediction.predictor import Predictor
    from apportion.router.records.join import Joined

NOT_ADMITTED = 1
"""Exit code where the new artefact may be worse than the old one."""


def calibrate(
    artefact: Annotated[Path, typer.Argument(help="artefact that `apportion train` wrote")],
    data: Annotated[str | None, typer.Option(help="fresh outcomes of its models, in any format of `train`")] = None,
    records: Annotated[
        str | None, typer.Option(metavar="URI", help="a service's records with the feedback on its answers, instead")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=writable_folder,
            help="folder to write the calibrated artefact to; with --data it may be left out: over the old one",
        ),
    ] = None,
    key: KeyOption = None,
    days: DaysOption = None,
    prompts: AskedOption = None,
    test_share: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="of the judged answers, the newest, to compare on; with --records")
    ] = 0.2,
    encoder: EncoderOption = None,
    cache: CacheOption = True,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Fit the calibration of an artefact anew on fresh outcomes; the estimator itself stays as it is.

    Do this when prompts or models have drifted and the predicted success no longer agrees with what is observed. The
    data must not hold prompts that the artefact was trained on.

    With --records the older judged answers calibrate, and both artefacts are compared on the newest. The new one is
    written only where its Brier score there is not worse, at the one-sided 95 % level; else the exit code is 1.

    Example: `apportion calibrate predictor/ --records /var/lib/apportion/records --out candidate/`
    """
    from apportion.router.prediction.training import check_fresh, recalibrate

    if (data is None) == (records is None):
        raise InvalidRequestError("--data, --records: nothing to calibrate on, or two things; give one of them")
    if records is not None:
        if out is None:
            raise InvalidRequestError("--out: missing; the artefact that serves stays until another is admitted")
        old = _loaded(artefact, encoder, device, cache)
        _on_records(old, read_records(records, key, days, prompts), out, test_share, json_file)
        return
    table, told = read_data(data or "", None)
    with stage_bars() as progress:
        old = _loaded(artefact, encoder, device, cache)
        check_fresh(old, table)
        predictor = recalibrate(old, table, progress)
    target = out or artefact
    predictor.save(target)
    if not write_json(summary(predictor, target) | {"warnings": told}, json_file):
        print_summary(predictor, target)


def _loaded(artefact: Path, encoder: str | None, device: str, cache: bool) -> Predictor:
    from apportion.router.prediction.predictor import Predictor

    predictor = Predictor.load(artefact, encoder=encoder, device=device)
    keep_vectors(predictor.encoder, cache)
    return predictor


def _on_records(old: Predictor, joined: Joined, out: Path, test_share: float, json_file: Path | None) -> None:
    from apportion.router.prediction.candidate import candidate

    with stage_bars() as progress:
        found, comparison = candidate(old, joined.table, test_share, progress)
    if comparison.admitted:
        found.save(out)
    told = {"admitted": comparison.admitted, "comparison": asdict(comparison)}
    if not write_json(summary(found, out) | told, json_file):
        _print(found, out, comparison)
    if not comparison.admitted:
        raise typer.Exit(NOT_ADMITTED)


def _print(found: Predictor, out: Path, comparison: Comparison) -> None:
    if comparison.admitted:
        print_summary(found, out)
    verdict = "admitted" if comparison.admitted else "not admitted, and not written"
    console.print(
        f"{verdict}: Brier score {comparison.brier_before:.4f} before, {comparison.brier_after:.4f} after, on the "
        f"newest {comparison.answers} judged answers; with 95 % the difference is {comparison.difference_at_most:+.4f} "
        "at most",
        soft_wrap=True,
    )
