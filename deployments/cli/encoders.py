"""The options by which commands take a sentence encoder, and what they say of its alternatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from apportion.deployments.cli.application import console, warn
from apportion.router.errors import OutcomesTableError

if TYPE_CHECKING:
    from apportion.router.evaluation.encoders import Comparison
    from apportion.router.outcomes.table import OutcomesTable
    from apportion.router.prediction.encoders import Encoders
    from apportion.router.prediction.estimator import Estimator, FittedEstimator
    from apportion.router.prediction.preparation import Progress
    from apportion.router.prediction.text_encoder import TextEncoder

COMPARE_ROWS = 4_000

NAMES = (
    "a folder, a hub id, or minilm (all-MiniLM-L6-v2 of apportion[minilm]), read as a transformer; static: before it "
    "for token vectors distilled from it, which take a hundredth of the CPU and lie in the artefact; both: for the two "
    "side by side"
)
DEFAULT = "[default: static:minilm; where there is a GPU minilm]"

CompareRowsOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="rows, none of them of the test, on which static vectors, the transformer and both are compared: area, "
        "calibration and CPU; 0 for none",
    ),
]


CacheOption = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="keep prompts' vectors for the next command, 1 GiB of them at most, in the folder that APPORTION_CACHE "
        "names, else in the user's caches; static vectors need none",
    ),
]


def keep_vectors(encoder: TextEncoder, cache: bool) -> None:
    """Has an encoder's transformer use the cache, where that is wanted."""
    if not cache:
        return
    from apportion.router.prediction import encoders
    from apportion.router.prediction.embedding_cache import EmbeddingCache, default_folder

    encoders.keep_vectors(encoder, EmbeddingCache(default_folder()))


def compared(
    table: OutcomesTable,
    encoders: Encoders,
    recipe: Estimator[FittedEstimator],
    compare_rows: int,
    progress: Progress,
    *,
    fractions: tuple[float, float, float],
    seed: int,
) -> Comparison | None:
    """The encoders on the rows of this split that are not its test; None where that is not asked for or, as is told on
    the error stream, not possible.
    """
    if compare_rows == 0:
        return None
    from apportion.router.evaluation.encoders import compare_encoders

    train, validation, _ = table.split_rows(seed, fractions)
    try:
        return compare_encoders(
            table.subset(np.concatenate([train, validation])), encoders, recipe, rows=compare_rows, progress=progress
        )
    except OutcomesTableError as error:
        warn(f"encoders are not compared: {error.message}")
        return None


def print_comparison(found: Comparison, used: str) -> None:
    """The candidates, and which of them is worth its CPU, for people."""
    from rich.table import Table

    from apportion.router.evaluation.statistics import Summary

    shown = Table(
        "encoder", "area", "ECE", "Brier", "CPU a prompt, ms", title=f"Encoders on {found.rows} training rows"
    )
    for one in found.candidates:
        numbers = (f"{one.ece:.4f}", f"{one.brier:.4f}", f"{one.cpu_ms:.2f}")
        shown.add_row(one.encoder, str(Summary.of(one.areas)), *numbers)
    console.print(shown)
    chosen = found.chosen.encoder
    kept = "as used here" if chosen == used else f"used here is {used}: give --encoder {chosen} to change"
    console.print(f"Best choice: {chosen}, {kept}; {found.why}.", soft_wrap=True)
