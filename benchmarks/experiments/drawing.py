"""Plots: one style, colours that everyone can tell apart, intervals as bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.evaluation.plot import COLOURS, DASHES
from apportion.router.evaluation.statistics import Summary

MARKERS = "osD^vPX*<>hd"


def panels(count: int, *, height: float = 4.2, width: float = 5.2, columns: int = 2) -> tuple[Any, list[Any]]:
    """A figure and `count` axes, `columns` side by side."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    for used in axes[:count]:
        used.grid(color="0.9", linewidth=0.6)
        used.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[:count])


def line(axes: Any, x: Any, values: list[Summary], number: int, label: str) -> None:
    """One series with its interval as a band; `number` picks colour, dash and marker."""
    mean = np.array([value.mean for value in values])
    half = np.nan_to_num(np.array([value.half_width for value in values]))
    colour = COLOURS[number % len(COLOURS)]
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    marker = MARKERS[number % len(MARKERS)]
    axes.plot(x, mean, dash, color=colour, label=label, marker=marker, markersize=3.5, linewidth=1.4)
    axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.14, linewidth=0)


def save(figure: Any, file: Path) -> None:
    """Write the figure; the same figure gives the same bytes."""
    figure.savefig(file, dpi=110, metadata={"Software": None})
