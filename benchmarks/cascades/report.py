"""Cascades beside plain routing (`mip`) at the same realised spend, all stages paid: batches of 1,024 in random order,
no limits on slots, five splits; of more than a dozen models those that no other beats in score and cost. The zoo has
the log-probabilities of its engines' answers; the other tables a synthetic verifier of stated strength (AUC beyond what
the prompt says, free). Posterior, shifts and gate are learned from the rows that calibrate the predictor too; test rows
are routed once. *Gated* offers the pairs that pass the gate, or none; *ungated* the most promising pair whatever the
gate says of it. *More rows* is plain routing by a predictor that trains on half of the calibration rows too. Recorded
answers of a second model do not depend on having been asked second. Points are hundredths of the best single model's
score. *Wait* is what looking at a first answer adds to the time to first token, over all requests, by a model of it: 50
tokens a second, expected lengths.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from apportion.router.evaluation.statistics import Summary
from benchmarks.cascades.case import REAL
from benchmarks.experiments.numbers import Record, distinct, over_seeds, points, shown, where
from benchmarks.experiments.report import by_dataset, table

TITLE = "Cascades: a cheap answer first"
TOKENS_PER_S = 50
GATED = ("splits the gate opened in", "asked on", "harmed", "wait s")


def section(result: dict[str, Any]) -> list[str]:
    """Gains by verifier and budget, what they cost, and what the gate decided."""
    return [*by_dataset(result, _gains, _told_apart, _decisions, _reading), _losses(result)]


def show(result: dict[str, Any], console: Console) -> None:
    for name in distinct(result["rows"], "dataset"):
        rows = where(result["rows"], dataset=name)
        fractions = distinct(where(rows, kind="gain"), "fraction")
        found = Table("verifier", "pairs", *(f"{fraction:.0%}" for fraction in fractions), *GATED, title=name)
        for cells in _lines(rows, fractions):
            found.add_row(*cells)
        console.print(found)
        for line in _decisions(rows)[2:]:
            console.print(line, soft_wrap=True, highlight=False)
    console.print(_losses(result))


def _gains(rows: list[Record]) -> list[str]:
    fractions = distinct(where(rows, kind="gain"), "fraction")
    about = (
        "Points gained over `mip` at shares of the best single model's cost; what it takes is the mean over budgets."
    )
    headings = ["verifier", "pairs", *(f"{fraction:.0%}" for fraction in fractions), *GATED]
    return [about, "", *table(headings, _lines(rows, fractions))]


def _lines(rows: list[Record], fractions: list[float]) -> list[list[str]]:
    more = where(rows, kind="gain", pairs="more rows")
    lines = [["none", "more rows", *(points(_gain(more, fraction)) for fraction in fractions), *[""] * len(GATED)]]
    for verifier in distinct(where(rows, kind="gate"), "verifier"):
        for pairs in ("gated", "ungated"):
            own = where(rows, kind="gain", verifier=verifier, pairs=pairs)
            gains = [points(_gain(own, fraction)) for fraction in fractions]
            opened = _opened(rows, verifier) if pairs == "gated" else ""
            lines.append([verifier, pairs, *gains, opened, *_taken(own)])
    return lines


def _gain(rows: list[Record], fraction: float) -> Summary:
    """Over the splits in which both ways can spend as little."""
    return over_seeds([r for r in rows if r["gain"] is not None], "gain", fraction=fraction)


def _opened(rows: list[Record], verifier: str) -> str:
    gates = where(rows, kind="gate", verifier=verifier)
    return f"{sum(bool(gate['pairs_offered']) for gate in gates)} of {len(gates)}"


def _taken(rows: list[Record]) -> list[str]:
    shares = [shown(_mean(over_seeds(rows, name)), 1, scale=100) + " %" for name in ("asked", "harmed")]
    return [*shares, shown(_mean(over_seeds(rows, "waited_tokens")), 2, scale=1 / TOKENS_PER_S)]


def _mean(value: Summary) -> Summary:
    return Summary(value.mean, float("nan"), value.n)


def _told_apart(rows: list[Record]) -> list[str]:
    """How well right answers are told from wrong ones, by model for real signals, over all models for made ones."""
    lines = ["How well right answers are told from wrong ones (AUC), before the answer and with its signals:", ""]
    for verifier in distinct(where(rows, kind="gate"), "verifier"):
        own = where(rows, kind="auc", verifier=verifier)
        groups = {model: where(own, model=model) for model in distinct(own, "model")}
        told = [f"{model} {_from_to(group)}" for model, group in groups.items()]
        lines.append(f"- {verifier}: {', '.join(told) if verifier == REAL else f'over all models {_from_to(own)}'}.")
    return lines


def _from_to(rows: list[Record]) -> str:
    return " to ".join(shown(_mean(over_seeds(rows, when)), 2) for when in ("before", "after"))


def _decisions(rows: list[Record]) -> list[str]:
    """The pairs that were tried most often, with what the calibration rows said of them."""
    lines = ["What the gate said, over the splits in which a pair was tried:", ""]
    for verifier in distinct(where(rows, kind="gate"), "verifier"):
        trials = where(rows, kind="trial", verifier=verifier)
        counts: dict[tuple[str, str], list[Record]] = {}
        for trial in trials:
            counts.setdefault((trial["first"], trial["second"]), []).append(trial)
        told = []
        for (first, second), own in sorted(counts.items(), key=lambda item: -len(item[1]))[:3]:
            gain = 100 * sum(trial["gain"] for trial in own) / len(own)
            passed = sum(trial["passed"] for trial in own)
            told.append(f"{first} > {second} {gain:+.1f} points, passed {passed} of {len(own)}")
        lines.append(f"- {verifier}: {'; '.join(told) or 'no pair could be tried'}.")
    return lines


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for verifier in distinct(where(rows, kind="gate"), "verifier"):
        gated = where(rows, kind="gain", verifier=verifier, pairs="gated")
        sure = [f for f in distinct(gated, "fraction") if (g := _gain(gated, f)).mean - g.half_width > 0]
        opened = _opened(rows, verifier)
        if opened.startswith("0 "):
            said = "the gate stays shut, and routing is what it was"
        elif sure:
            said = (
                f"opened in {opened} splits; the gain is certain at {', '.join(f'{f:.0%}' for f in sure)} of the cost"
            )
        else:
            said = f"opened in {opened} splits, and no gain is certain on the test rows"
        lines.append(f"- {verifier}: {said}.")
    return lines


def _losses(result: dict[str, Any]) -> str:
    lost = [f"{name} with {verifier}" for name, verifier in result["lost"]]
    if not lost:
        return "Nowhere do pairs that passed the gate lose on the test rows by more than the interval."
    return f"**Pairs that passed the gate lose on the test rows by more than the interval: {', '.join(lost)}.**"
