"""Score against budget, one line an arm, with 95 % intervals over seeds as bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.errors import ConfigurationError
from apportion.router.evaluation.protocol import Evaluation
from apportion.router.evaluation.statistics import summarise_rows

# Okabe and Ito, "Color Universal Design" (2008): told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
ORACLE = "oracle"
_HUES = len(COLOURS) - 1  # black is the oracle's
MOST_LINES = 12
MOST_NAMES = 12
"""Of single models that are all named; of more, those that no other beats in score and cost."""
CLOSE_TO_OTHERS = ("robust_gamma", "robust_cost", "per_query_capped", "ndch_p")


class Style(NamedTuple):
    """How a line is drawn."""

    colour: str
    dash: str
    width: float


def check_plot(file: Path) -> None:
    """Raise ConfigurationError when `draw` could not write this file: matplotlib is not installed, the ending names no
    format, or the folder does not exist.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ConfigurationError("plot: matplotlib is not installed, pip install 'apportion[bench]'") from error
    formats = FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in formats:
        raise ConfigurationError(f"plot {file}: give a name that ends in one of .{', .'.join(sorted(formats))}")
    if not file.parent.is_dir():
        raise ConfigurationError(f"plot {file}: there is no folder {file.parent}, make it first")


def draw(found: Evaluation, file: Path) -> None:
    """Draw the first estimator's arms and the single models into a file whose ending names the format.

    Raises ConfigurationError as `check_plot` does.
    """
    check_plot(file)
    from matplotlib.figure import Figure

    estimator = found.rows[0].estimator
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    lines = {arm: by for (name, arm), by in summarise_rows(found.rows).items() if name == estimator}
    shown = legible(lines)
    for arm, style in styles(shown).items():
        share = np.array(list(lines[arm]))
        mean = np.array([s.mean for s in lines[arm].values()])
        half = np.nan_to_num([s.half_width for s in lines[arm].values()])
        axes.plot(
            share, mean, style.dash, color=style.colour, linewidth=style.width, label=arm, marker="o", markersize=3
        )
        axes.fill_between(share, mean - half, mean + half, color=style.colour, alpha=0.12, linewidth=0)
    _draw_singles(axes, found, estimator)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    hidden = [arm for arm in lines if arm not in shown]
    beside = f", without {', '.join(hidden)}" if hidden else ""
    axes.set(
        xscale="log", xlabel="spend, share of the best single model's cost",
        ylabel="score, share of the best single model's", title=f"Estimator {estimator}{beside}",
    )  # fmt: skip
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(file)


def legible(arms: Iterable[str]) -> list[str]:
    """At most `MOST_LINES` of the arms: of more, those that run close beside others are left to the table."""
    shown = list(arms)
    for arm in CLOSE_TO_OTHERS:
        if len(shown) > MOST_LINES and arm in shown:
            shown.remove(arm)
    return shown[:MOST_LINES]


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """A line for each arm, no two alike; the bound that nobody can reach is black."""
    others = [arm for arm in arms if arm != ORACLE]
    found = {
        arm: Style(COLOURS[number % _HUES], DASHES[number // _HUES % len(DASHES)], 1.6)
        for number, arm in enumerate(others)
    }
    return found | {arm: Style("#000000", ":", 2.4) for arm in arms if arm == ORACLE}


def _draw_singles(axes, found: Evaluation, estimator: str) -> None:  # type: ignore[no-untyped-def]
    points: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        if row.arm.startswith("single:") and row.estimator == estimator and row.score is not None:
            points.setdefault(row.arm, []).append((row.budget_fraction, row.score / row.best_single_score))
    means = np.array([np.mean(p, axis=0) for p in points.values()])
    axes.scatter(means[:, 0], means[:, 1], marker="x", color="grey", label="single models", zorder=1)
    for name, (share, score) in zip(points, means, strict=True):
        if len(points) <= MOST_NAMES or unbeaten(means, share, score):
            text = name.removeprefix("single:")
            axes.annotate(text, (share, score), xytext=(4, -8), textcoords="offset points", fontsize=7, color="0.35")


def unbeaten(means: FloatArray, share: float, score: float) -> bool:
    """Whether none of `means` (n_models, 2: share of the cost, score) is as good for less, or better for as much."""
    cheaper = (means[:, 0] <= share) & (means[:, 1] >= score) & ((means[:, 0] < share) | (means[:, 1] > score))
    return not cheaper.any()
