"""Score against budget, one line an arm, with 95 % intervals over seeds as bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apportion.router.errors import ConfigurationError
from apportion.router.evaluation.protocol import Evaluation
from apportion.router.evaluation.statistics import summarise_rows

# Okabe and Ito, "Color Universal Design" (2008): told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")


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
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    lines = [(arm, by) for (name, arm), by in summarise_rows(found.rows).items() if name == estimator]
    for number, (arm, by_fraction) in enumerate(lines):
        share = np.array(list(by_fraction))
        mean = np.array([s.mean for s in by_fraction.values()])
        half = np.nan_to_num([s.half_width for s in by_fraction.values()])
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        axes.plot(share, mean, dash, color=colour, label=arm, marker="o", markersize=3)
        axes.fill_between(share, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
    _draw_singles(axes, found, estimator)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(
        xscale="log", xlabel="spend, share of the best single model's cost",
        ylabel="score, share of the best single model's", title=f"Estimator {estimator}",
    )  # fmt: skip
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(file)


def _draw_singles(axes, found: Evaluation, estimator: str) -> None:  # type: ignore[no-untyped-def]
    points: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        if row.arm.startswith("single:") and row.estimator == estimator and row.score is not None:
            points.setdefault(row.arm, []).append((row.budget_fraction, row.score / row.best_single_score))
    means = np.array([np.mean(p, axis=0) for p in points.values()])
    axes.scatter(means[:, 0], means[:, 1], marker="x", color="grey", label="single models", zorder=1)
