"""How far the estimates can be believed: on test requests, the predicted chance of a good answer beside the share of
good answers, before and after calibration (temperature, then buckets, fitted on a tenth of the requests). ECE: mean gap
over equally filled buckets; it counts some 0.3 x sqrt(buckets / outcomes) for perfect estimates too. Brier: mean
squared error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import FloatArray
from apportion.router.calibration import brier_score, expected_calibration_error
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import difference, distinct, over_seeds, shown, side, where
from benchmarks.experiments.report import table

TITLE = "Calibration: how far estimates can be believed"
ESTIMATORS = ("head", "knn-40", "knn-5", "trees", "logistic")
BUCKETS = 10
# Tasks with fewer test requests than this are left out of the tables by task.
FEWEST = 30
STAGES = ("before", "after")


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Errors over all outcomes, by model and by task, and the points of the reliability diagrams."""
    tasks = dataset.prepared()[0].tasks[case.test_rows]
    records = []
    for kind, name, rows, columns in _parts(case, tasks):
        score = case.test.score[rows][:, columns]
        estimates = {"before": case.raw_success, "after": case.test.estimates.success}
        record: Record = {"kind": kind, "name": name, "outcomes": int(score.size)}
        for stage, success in estimates.items():
            part = success[rows][:, columns]
            record[f"ece_{stage}"] = expected_calibration_error(part, score, BUCKETS)
            record[f"brier_{stage}"] = brier_score(part, score)
            if kind in ("all", "model"):
                record[f"predicted_{stage}"], record[f"observed_{stage}"] = _diagram(part.ravel(), score.ravel())
        records.append(record)
    return records


def _parts(case: Case, tasks: NDArray[np.str_]) -> Iterator[tuple[str, str, Any, Any]]:
    everything = np.arange(len(tasks))
    yield "all", "all", everything, np.arange(len(case.models))
    for j, model in enumerate(case.models):
        yield "model", model, everything, [j]
    for task in np.unique(tasks).tolist():
        rows = np.flatnonzero(tasks == task)
        if len(rows) >= FEWEST:
            yield "task", task, rows, np.arange(len(case.models))


def _diagram(success: FloatArray, score: FloatArray) -> tuple[list[float], list[float]]:
    """Mean estimate and mean score of equally filled buckets."""
    parts = np.array_split(np.argsort(success, kind="stable"), BUCKETS)
    return [float(success[p].mean()) for p in parts], [float(score[p].mean()) for p in parts]


def run(context: Context) -> dict[str, Any]:
    """Measure all estimators on all data sets."""
    rows = context.measure(measure_case, ESTIMATORS, "calibration")
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"Reliability, {n}": f"calibration-{n}.png" for n in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Errors of every estimator, of our head by model and by task, and the reading."""
    lines = []
    for name in distinct(result["rows"], "dataset"):
        rows = where(result["rows"], dataset=name)
        head = where(rows, estimator="head")
        lines += [f"### {name}", "", *_table("estimator", where(rows, kind="all"), "estimator"), ""]
        lines += ["`head` by model:", "", *_table("model", where(head, kind="model"), "name"), ""]
        lines += ["`head` by task:", "", *_table("task", where(head, kind="task"), "name"), ""]
        lines += [*_reading(rows), ""]
    return lines


def _table(heading: str, rows: list[Record], key: str) -> list[str]:
    headings = [
        heading,
        "outcomes a seed",
        "ECE by chance",
        "before",
        "after",
        "Brier before",
        "after",
        "change of Brier",
    ]
    cells = []
    for value in distinct(rows, key):
        own = where(rows, **{key: value})
        errors = [shown(over_seeds(own, f"{error}_{stage}"), 4) for error in ("ece", "brier") for stage in STAGES]
        outcomes = f"{over_seeds(own, 'outcomes').mean:.0f}"
        cells.append([f"`{value}`", outcomes, f"{_chance(own):.4f}", *errors, shown(_change(own), 4, signed=True)])
    return table(headings, cells)


def _change(rows: list[Record]) -> Summary:
    after = [{**r, "brier": r["brier_after"], "stage": "after"} for r in rows]
    before = [{**r, "brier": r["brier_before"], "stage": "before"} for r in rows]
    return difference(after + before, "brier", {"stage": "after"}, {"stage": "before"})


def _reading(rows: list[Record]) -> list[str]:
    everything = where(rows, kind="all")
    lines = []
    for effect, words in (
        (-1, "makes Brier better for"),
        (1, "makes Brier worse for"),
        (0, "changes nothing shown for"),
    ):
        names = [
            e for e in distinct(everything, "estimator") if side(_change(where(everything, estimator=e))) == effect
        ]
        if names:
            lines.append(f"- Calibration {words} {', '.join(f'`{n}`' for n in names)}.")
    ece = over_seeds(everything, "ece_after", estimator="head")
    worst = {kind: _worst(where(rows, estimator="head", kind=kind)) for kind in ("model", "task")}
    head = where(rows, estimator="head")
    said = f"- `head`: ECE {shown(ece, 4)} over all outcomes ({'within' if ece.mean <= 0.03 else 'above'} 0.03)"
    said += "".join(
        f"; worst {kind} `{name}` {value:.3f} ({_chance(where(head, kind=kind, name=name)):.3f} by chance)"
        for kind, (name, value) in worst.items()
        if name
    )
    lines.append(said + ".")
    name, task = worst["task"]
    if name and task > 2 * max(ece.mean, _chance(where(head, kind="task", name=name))):
        lines.append(
            "- A number that holds over all requests does not hold for every task: where one kind of request matters, "
            "look at its own row before you trust a threshold on it."
        )
    return lines


def _chance(rows: list[Record]) -> float:
    """About the ECE that perfect estimates have on so many independent outcomes."""
    return 0.3 * float(np.sqrt(BUCKETS / over_seeds(rows, "outcomes").mean))


def _worst(rows: list[Record]) -> tuple[str, float]:
    errors = {name: over_seeds(where(rows, name=name), "ece_after").mean for name in distinct(rows, "name")}
    name = max(errors, key=lambda n: errors[n], default="")
    return name, errors.get(name, float("nan"))


def draw(result: dict[str, Any], folder: Path) -> None:
    """Reliability of every estimator before and after, and of the head's models after."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        figure, axes = panels(3, columns=3, width=4.4)
        for panel, stage in zip(axes[:2], STAGES, strict=True):
            panel.set_title(f"{name}: all outcomes, {stage} calibration", fontsize=9)
            for number, estimator in enumerate(distinct(rows, "estimator")):
                _reliability(panel, where(rows, kind="all", estimator=estimator), stage, number, estimator)
        models = where(rows, kind="model", estimator="head")
        axes[2].set_title("head, every model, after calibration", fontsize=9)
        for model in distinct(models, "name"):
            x, y = (_mean(where(models, name=model), f"{side_}_after") for side_ in ("predicted", "observed"))
            axes[2].plot(x, y, color="#0072B2", alpha=0.35, linewidth=0.9)
        for panel in axes:
            panel.plot([0, 1], [0, 1], color="0.4", linewidth=0.8)
            panel.set(
                xlabel="predicted chance of a good answer", ylabel="share of good answers", xlim=(0, 1), ylim=(0, 1)
            )
        axes[0].legend(fontsize=8)
        save(figure, folder / file)


def _reliability(axes: Any, rows: list[Record], stage: str, number: int, label: str) -> None:
    observed = np.array([r[f"observed_{stage}"] for r in rows], np.float64)
    line(axes, _mean(rows, f"predicted_{stage}"), [Summary.of(column) for column in observed.T], number, label)


def _mean(rows: list[Record], field: str) -> FloatArray:
    return np.asarray(np.mean([r[field] for r in rows], axis=0))
