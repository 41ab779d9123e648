"""All arms at the same realised spend, from 5 to 100 % of what the best single model costs, in random batches of 256
without limits on slots; once for each estimator of success. Scores are given as a share of the best single model's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apportion.router.evaluation import ARMS, Setting
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.protocol import BUDGET_FRACTIONS, TARGETS, measure, read_off, single_models
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import by_seed, called, difference, distinct, listed, over_seeds, shown, side, where
from benchmarks.experiments.report import table

TITLE = "Frontier: quality against budget"
ESTIMATORS = ("head", "knn-40", "knn-5", "trees", "logistic")
ALL_ARMS = ("head", "knn-40")
COMMON_ARMS = ("per_query", "mip")

# What the article reports on its own two sets: arm, share of the best model's cost, share of its score.
CLAIMS = (
    ("mip", 0.5, 0.95, "95 % of the best model at 50 % of its cost"),
    ("ndch", 0.5, 0.90, "90 % at 50 %"),
    ("ndch_p", 0.5, 0.90, "90 % at 50 %, first set"),
    ("ndch_p", 0.5, 0.985, "nearly 99 % at 50 %, second set"),
    ("ndch_p", 0.7, 1.0, "above the best model at 70 %, second set"),
)
# Plain estimators with one price for all requests, means of three seeds: the scores to beat on these sets.
FLOOR = {
    "routerbench_part": {0.1: 0.937, 0.3: 0.937, 0.5: 0.976, 0.7: 0.976, 1.0: 0.997},
    "mmlu_pro_cot": {0.1: 0.914, 0.3: 0.953, 0.5: 0.972, 0.7: 0.994, 1.0: 1.004},
}


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Every arm's curve, the single models, and how well the estimates are calibrated."""
    setting = Setting(batch_size=32 if smoke else 256)
    # Without slots `first_come` is `per_query`.
    arms = tuple(arm for arm in ARMS if arm != "first_come") if case.estimator in ALL_ARMS else COMMON_ARMS
    records: list[Record] = [
        {
            "kind": "case", "best": case.models[case.best], "best_score": case.best_score,
            "best_cost_usd": case.best_cost_usd, "oracle_score": case.oracle_score, **vars(case.errors),
        }
    ]  # fmt: skip
    for row in single_models(case):
        relative = float(row.score or 0) / case.best_score
        records.append({"kind": "single", "arm": row.arm, "cost": row.budget_fraction, "score": relative})
    for arm in arms:
        points = ARMS[arm](case, setting)
        found = measure(case, arm, points)
        scores = [None if r.score is None else r.score / case.best_score for r in read_off(case, arm, points)]
        records.append(
            {
                "kind": "arm", "arm": arm, **{_at(f): s for f, s in zip(BUDGET_FRACTIONS, scores, strict=True)},
                "area": found.area, "headroom": found.headroom, "over_cap": found.over_cap,
                "worst_cap_ratio": found.worst_cap_ratio,
                **{_cost(t): c for t, c in zip(TARGETS, found.cost_of, strict=True)},
            }
        )  # fmt: skip
    return records


def run(context: Context) -> dict[str, Any]:
    """Measure all estimators on all data sets."""
    records = context.measure(measure_case, ESTIMATORS, "frontier")
    names = distinct(records, "dataset")
    return {
        "cases": where(records, kind="case"),
        "singles": where(records, kind="single", estimator=ESTIMATORS[0]),
        "arms": where(records, kind="arm"),
        "plots": {f"Score against spend, {name}": f"frontier-{name}.png" for name in names},
    }


# The others lie on top of `mip`; the table has them all.
DRAWN = ("mip", "random_mixture", "ndch_p", "greedy", "per_query", "threshold", "oracle")


def section(result: dict[str, Any]) -> list[str]:
    """Tables of every data set, the claims, and the reading."""
    lines = []
    for name in distinct(result["arms"], "dataset"):
        arms, cases = where(result["arms"], dataset=name), where(result["cases"], dataset=name)
        best, oracle = (over_seeds(cases, field, estimator="head") for field in ("best_score", "oracle_score"))
        models = ", ".join(f"`{model}`" for model in distinct(cases, "best"))
        lines += [f"### {name}", "", f"Best single model: {models}, score {shown(best)}; oracle {shown(oracle)}.", ""]
        lines += [*_arms_table(arms, "head"), "", *_estimators_table(arms, cases), ""]
        lines += [*_claims_table(arms), "", *_reading(name, arms, cases), ""]
    return lines


def _arms_table(arms: list[Record], estimator: str) -> list[str]:
    headings = ["arm", *(f"{f:.0%}" for f in BUDGET_FRACTIONS), "area", "headroom", "95 % at", "99 % at", "over cap"]
    rows = []
    for arm in distinct(where(arms, estimator=estimator), "arm"):
        chosen = where(arms, estimator=estimator, arm=arm)
        scores = [shown(_mean(over_seeds(chosen, _at(f)))) for f in BUDGET_FRACTIONS]
        costs = [_percent(_mean(over_seeds(chosen, _cost(t)))) for t in (0.95, 0.99)]
        headroom, over = over_seeds(chosen, "headroom"), over_seeds(chosen, "over_cap")
        rows.append(
            [f"`{arm}`", *scores, shown(over_seeds(chosen, "area"), 4), _percent(headroom), *costs, _percent(over)]
        )
    return [f"Estimator `{estimator}`:", "", *table(headings, rows)]


def _estimators_table(arms: list[Record], cases: list[Record]) -> list[str]:
    headings = ["estimator", "area of `mip`", "`head` less it", "ECE", "calibrated", "Brier", "calibrated"]
    rows = []
    for estimator in distinct(arms, "estimator"):
        own = where(cases, estimator=estimator)
        less = _against_head(arms, estimator)
        errors = [shown(over_seeds(own, f), 4) for f in ("ece_before", "ece_after", "brier_before", "brier_after")]
        area = shown(over_seeds(arms, "area", estimator=estimator, arm="mip"), 4)
        rows.append([f"`{estimator}`", area, "" if estimator == "head" else shown(less, 4, signed=True), *errors])
    return table(headings, rows)


def _claims_table(arms: list[Record]) -> list[str]:
    rows = []
    for arm, fraction, level, words in CLAIMS:
        found = over_seeds(arms, _at(fraction), estimator="head", arm=arm)
        rows.append([f"`{arm}`: {words}", shown(found), _holds(found, level)])
    return table(["the article's claim", "here, with `head`", "holds"], rows)


def _reading(name: str, arms: list[Record], cases: list[Record]) -> list[str]:
    head = where(arms, estimator="head")
    lines = [_against_others(arms), _batch_or_not(head), _with_the_best_budget(head)]
    ece = over_seeds(cases, "ece_after", estimator="head")
    lines.append(f"- Calibrated ECE of `head` {shown(ece, 4)}: {'within' if ece.mean <= 0.03 else 'above'} 0.03.")
    if name in FLOOR:
        lines.append(_above_the_floor(name, head))
    return lines


def _against_others(arms: list[Record]) -> str:
    others = [e for e in distinct(arms, "estimator") if e != "head"]
    verdicts = {e: side(_against_head(arms, e)) for e in others}
    beaten, lost = ([e for e in others if verdicts[e] == s] for s in (1, -1))
    open_ = [e for e in others if verdicts[e] == 0]
    said = f"- Area of `mip` with `head`: better than {listed(beaten)}"
    said += f"; worse than {listed(lost)}" if lost else ""
    return said + (f"; no difference shown to {listed(open_)}." if open_ else ".")


def _batch_or_not(head: list[Record]) -> str:
    gain = difference(head, "area", {"arm": "mip"}, {"arm": "per_query"})
    mixture = difference(head, "area", {"arm": "mip"}, {"arm": "random_mixture"})
    said = (
        f"- Routing at all: `mip` less `random_mixture` {shown(mixture, 4, signed=True)} of area ({called(mixture)}). "
    )
    said += f"Batch by batch instead of one price for all: {shown(gain, 4, signed=True)} ({called(gain)}). "
    if side(gain) > 0:
        return said + "The batch pays even without slots and with random batches."
    return said + (
        "With random batches, no slots and one total to keep, do not bother with batch-level routing for quality: one "
        "price for all does as well. What the batch adds here is the cap that each of them keeps."
    )


def _with_the_best_budget(head: list[Record]) -> str:
    seeds = by_seed(head, _at(1.0), arm="mip")
    worse = sum(score < 1 for score in seeds.values())
    mean, least = Summary.of(list(seeds.values())), min(seeds.values())
    said = f"- With the best single model's budget `mip` scores {shown(mean)} of it (least seed {least:.3f}): "
    return said + ("never worse." if not worse else f"worse than it in {worse} of {len(seeds)} seeds.")


def _above_the_floor(name: str, head: list[Record]) -> str:
    floor = FLOOR[name]
    short = [f for f, level in floor.items() if not over_seeds(head, _at(f), arm="mip").mean >= level]
    said = "- What plain estimators reach with one price for all (mean of three seeds) is "
    return said + ("passed at every budget." if not short else f"not reached at {_fractions(short)}.")


def draw(result: dict[str, Any], folder: Path) -> None:
    """One figure a data set: arms of `head` beside estimators of `mip`."""
    for name, file in zip(distinct(result["arms"], "dataset"), result["plots"].values(), strict=True):
        arms = where(result["arms"], dataset=name)
        figure, (left, right) = panels(2, height=5.0, width=6.0)
        for number, arm in enumerate(DRAWN):
            _curve(left, where(arms, estimator="head", arm=arm), number, arm)
        for number, estimator in enumerate(distinct(arms, "estimator")):
            _curve(right, where(arms, estimator=estimator, arm="mip"), number, estimator)
        for axes, title in ((left, f"{name}: arms with head"), (right, f"{name}: mip by estimator")):
            singles = where(result["singles"], dataset=name)
            for which in distinct(singles, "arm"):
                cost, score = (over_seeds(singles, field, arm=which).mean for field in ("cost", "score"))
                axes.scatter(cost, score, marker="x", color="0.5", zorder=1)
            axes.axhline(1.0, color="0.4", linewidth=0.8)
            axes.set(xscale="log", title=title, xlim=(BUDGET_FRACTIONS[0] * 0.9, 1.1))
            axes.set(xlabel="spend, share of the best single model's cost", ylabel="score, share of its score")
            axes.set_xticks(BUDGET_FRACTIONS, [f"{f:.0%}" for f in BUDGET_FRACTIONS], minor=False)
            axes.set_xticks([], minor=True)
            axes.legend(fontsize=7, ncols=2)
        save(figure, folder / file)


def _curve(axes: Any, records: list[Record], number: int, label: str) -> None:
    line(axes, BUDGET_FRACTIONS, [over_seeds(records, _at(f)) for f in BUDGET_FRACTIONS], number, label)


def _against_head(arms: list[Record], estimator: str) -> Summary:
    return difference(arms, "area", {"estimator": "head"}, {"estimator": estimator}, arm="mip")


def _at(fraction: float) -> str:
    return f"at_{fraction:g}"


def _cost(target: float) -> str:
    return f"cost_of_{target:g}"


def _holds(found: Summary, level: float) -> str:
    if not found.mean >= level:
        return "no"
    return "yes" if found.mean - found.half_width >= level else "in the mean"


def _mean(value: Summary) -> Summary:
    """Without its interval, which the plot shows."""
    return Summary(value.mean, float("nan"), value.n)


def _percent(value: Summary) -> str:
    return shown(value, 1, scale=100) + (" %" if value.mean == value.mean else "")


def _fractions(values: list[float]) -> str:
    return ", ".join(f"{value:.0%}" for value in values)
