"""Variants in the pool against models alone, at equal realised spend, in random batches of 256 without limits on slots.

**The outcomes of the variants are simulated.** Of each recorded table the models that no other one beats in score and
cost are taken; `plain` is what was recorded. `think` has 4 times the output tokens: it makes a wrong answer right with
a chance of up to 0.6 (large gain), 0.2 (small gain) or 0 (no gain), in proportion to how many of these models get the
prompt right, and a right one wrong with 0.02. `brief` has 0.4 times the tokens, and makes a right answer wrong with a
chance of up to 0.3, the more the fewer models get the prompt right. These numbers are assumed, around what is published
of models that can think or not: they say what routing makes of such variants, not what any model gains; `thinking` says
it of one that really thinks. Predictors are trained on the simulated outcomes of the training rows and know nothing of
the rule. Scores are shares of the best plain model's, and so are budgets of its cost. Estimator: our head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.evaluation import ARMS, Setting
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.realised import curve_of
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.efforts import BRIEF, CODE, EFFORTS, PLAIN, THINK, VARIANTS, EffortDataset
from benchmarks.experiments.numbers import called, difference, distinct, over_seeds, points, shown, where
from benchmarks.experiments.report import by_dataset, table

TITLE = "Thinking: how much of it a request is worth (simulated outcomes)"
FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)
ALONE, NEVER, ALWAYS, POOL = "models alone", "never think", "always think", "variants"
CHOICES = {ALONE: (PLAIN,), NEVER: (BRIEF, PLAIN), ALWAYS: (THINK,), POOL: VARIANTS}
WITHOUT_THINKING = (ALONE, NEVER)  # the same whatever thinking brings


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """The score at each budget of what may choose from some variants."""
    if not isinstance(dataset, EffortDataset):
        raise TypeError("variants are measured on simulated efforts")
    plain = dataset.simulated()[0]
    plain = plain.select_models([name for name in plain.models if name.endswith(PLAIN)])
    known = np.ones(len(plain), dtype=bool)
    known[case.test_rows] = False
    best = int(plain.scores[known].mean(axis=0).argmax())
    score, cost_usd = (float(of[case.test_rows, best].mean()) for of in (plain.scores, plain.cost_usd))
    curve = curve_of(ARMS["mip"](case, Setting(32 if smoke else 256)))
    found = curve.at(np.array(FRACTIONS) * cost_usd)
    arm = next(name for name, variants in CHOICES.items() if variants == dataset.variants)
    return [
        {"effort": dataset.effort, "arm": arm, "fraction": fraction, "score": None if np.isnan(own) else own / score}
        for fraction, own in zip(FRACTIONS, found.tolist(), strict=True)
    ]


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets."""
    efforts = list(EFFORTS)[: 1 if context.smoke else None]
    pools = [
        EffortDataset(one.folder, one.encoder, one.cache, effort=effort, variants=variants)
        for one in context.datasets()
        for effort in efforts
        for arm, variants in CHOICES.items()
        if arm not in WITHOUT_THINKING or effort == efforts[0]
    ]
    rows = context.measure(measure_case, ("head",), "variants", datasets=pools, code=CODE)
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"Score against spend, {name}": f"variants-{name}.png" for name in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Scores at every budget by what thinking brings, and the reading."""
    return by_dataset(result, _table, _reading)


def _of(rows: list[Record], effort: str, arm: str) -> list[Record]:
    return where(rows, arm=arm) if arm in WITHOUT_THINKING else where(rows, arm=arm, effort=effort)


def _table(rows: list[Record]) -> list[str]:
    headings = ["thinking brings", "may choose from", *(f"{fraction:.0%}" for fraction in FRACTIONS)]
    cells = []
    for effort in distinct(rows, "effort"):
        for arm in CHOICES:
            own = _of(rows, effort, arm)
            scores = [shown(over_seeds(own, "score", fraction=fraction)) for fraction in FRACTIONS]
            cells.append([effort, arm, *scores])
    return [
        "By budget, a share of the best plain model's cost (a dash: cannot spend as little):",
        "",
        *table(headings, cells),
    ]


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for effort in distinct(rows, "effort"):
        pool = _of(rows, effort, POOL)
        for arm in (ALONE, NEVER, ALWAYS):
            both, gains = [*pool, *_of(rows, effort, arm)], []
            for fraction in FRACTIONS:
                gain = difference(both, "score", {"arm": POOL}, {"arm": arm}, fraction=fraction)
                if gain.mean == gain.mean:
                    gains.append(f"{points(gain)} at {fraction:.0%} ({called(gain)})")
            lines.append(f"- {effort.capitalize()}: variants less {arm}, in points: {'; '.join(gains)}.")
    return lines


def draw(result: dict[str, Any], folder: Path) -> None:
    """One figure a data set, a panel for each gain."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        efforts = distinct(rows, "effort")
        figure, axes = panels(len(efforts), columns=3, width=4.4)
        for panel, effort in zip(axes, efforts, strict=True):
            for number, arm in enumerate(CHOICES):
                own = _of(rows, effort, arm)
                line(panel, FRACTIONS, [over_seeds(own, "score", fraction=f) for f in FRACTIONS], number, arm)
            panel.set(xscale="log", xlabel="spend, share of the best plain model's cost", ylabel="share of its score")
            panel.set_title(f"{name}: {effort}", fontsize=9)
        axes[0].legend(fontsize=8)
        save(figure, folder / file)
