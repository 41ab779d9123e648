"""An evaluation in words: the best single model, all single models, and whether routing is shown to be better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose

import numpy as np

from apportion.router.evaluation.protocol import TARGETS, Evaluation, Row
from apportion.router.evaluation.statistics import Summary
from apportion.router.outcomes.table import OutcomesTable

ARM = "mip"  # what a service routes by unless it is told otherwise
_SINGLE = "single:"
_NO_ROUTING = {"oracle", "random_mixture"}


@dataclass(frozen=True)
class Single:
    """A model that answers everything: mean score and mean cost of a request over the splits' test requests."""

    model: str
    score: Summary
    cost_usd: float


@dataclass(frozen=True)
class Verdict:
    """estimator, arm: which routing is judged. best: the single model that training chose, most often where splits
    differ; best_score and best_usd are of what each split chose. gain: the arm's score less that, at its cost, over
    the splits. share_of_cost: of that cost, for which the arm scores as much; NaN where it never does.
    """

    estimator: str
    arm: str
    best: str
    best_score: Summary
    best_usd: float
    gain: Summary
    share_of_cost: float

    def __str__(self) -> str:
        score, usd = self.best_score.mean, f"{self.best_usd:.3g} USD a request"
        said = (
            f"routing by {self.arm} on {self.estimator} scores {score + self.gain.mean:.3f} where {self.best}, the "
            f"best single model, scores {score:.3f}, for the same {usd}: {self.gain.mean:+.3f}"
        )
        low, high = self.gain.mean - self.gain.half_width, self.gain.mean + self.gain.half_width
        if not np.isfinite(self.gain.half_width):
            return f"{said} on one split, which proves nothing; give --seeds 5"
        said += f" (95 % interval {low:+.3f} to {high:+.3f} over {self.gain.n} splits)"
        if low > 0:
            said += ", a gain"
        elif high < 0:
            said += ", a loss"
        else:
            said += ", so no gain is shown"
        if self.share_of_cost < 1:
            said += f"; the score of {self.best} is reached at {self.share_of_cost:.0%} of its cost"
        return said


def singles(found: Evaluation) -> list[Single]:
    """The single models, the best first."""
    estimator = found.rows[0].estimator
    rows = [row for row in found.rows if row.arm.startswith(_SINGLE) and row.estimator == estimator]
    models = dict.fromkeys(row.arm.removeprefix(_SINGLE) for row in rows)
    summed = []
    for model in models:
        of_model = [row for row in rows if row.arm == _SINGLE + model]
        scores = [row.score for row in of_model if row.score is not None]
        summed.append(Single(model, Summary.of(scores), float(np.mean([row.cost_usd for row in of_model]))))
    return sorted(summed, key=lambda one: -one.score.mean)


def cascades(found: Evaluation) -> list[str]:
    """Of every pair of models that was tried as a cascade, in how many splits it was shown to gain; nothing where the
    outcomes have no signals.
    """
    if not found.gates:
        return []
    trials = [trial for gate in found.gates.values() for trial in gate.trials]
    if not trials:
        return sorted({sentence for gate in found.gates.values() for sentence in gate.sentences})
    told = []
    for pair in dict.fromkeys((trial.first, trial.second) for trial in trials):
        own = [trial for trial in trials if (trial.first, trial.second) == pair]
        gain = 100 * sum(trial.gain for trial in own) / len(own)
        told.append(
            f"cascade {' > '.join(pair)}: proved in {sum(trial.passed for trial in own)} of {len(found.gates)} splits, "
            f"{gain:+.2f} points over routing at equal spend on the calibration rows"
        )
    return told


def verdict(found: Evaluation) -> Verdict | None:
    """Of `mip`, or else of the first arm that routes, on the first estimator; None where none did, or none at the best
    single model's cost.
    """
    estimator = found.rows[0].estimator
    rows = [row for row in found.rows if row.estimator == estimator]
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if not arm.startswith(_SINGLE)]
    routing = [arm for arm in arms if arm not in _NO_ROUTING]
    if not routing:
        return None
    arm = ARM if ARM in routing else routing[0]
    full = [row for row in rows if row.arm == arm and row.budget_fraction == 1.0]
    gains = [row.score - row.best_single_score for row in full if row.score is not None]
    if len(gains) < len(full):
        return None
    alike = TARGETS.index(1.0)
    shares = [one.cost_of[alike] for one in found.measures if (one.estimator, one.arm) == (estimator, arm)]
    return Verdict(
        estimator=estimator,
        arm=arm,
        best=_chosen(rows),
        best_score=Summary.of([row.best_single_score for row in full]),
        best_usd=float(np.mean([row.best_single_cost_usd for row in full])),
        gain=Summary.of(gains),
        share_of_cost=float(np.mean(shares)),
    )


def _chosen(rows: Sequence[Row]) -> str:
    """The single model that most splits chose."""
    chosen = Counter(
        row.arm.removeprefix(_SINGLE)
        for row in rows
        if row.arm.startswith(_SINGLE)
        and isclose(row.cost_usd, row.best_single_cost_usd)
        and row.score is not None
        and isclose(row.score, row.best_single_score)
    )
    return chosen.most_common(1)[0][0]


def left_out(table: OutcomesTable, used: OutcomesTable, max_missing: float) -> Iterator[str]:
    """What of a table an evaluation does not look at, and why; nothing where it looks at all of it.

    Args:
        table: as it was given, its counts completed.
        used: what `usable` left of it.
        max_missing: as `usable` was told.
    """
    gone = [model for model in table.models if model not in used.models]
    priced = dict(zip(table.models, np.atleast_1d(np.isfinite(table.cost_usd).any(axis=0)), strict=True))
    for names, why in (
        ([name for name in gone if not priced[name]], "nothing is known of their costs: give prices, or a GPU's"),
        (
            [name for name in gone if priced[name]],
            f"scores or costs of more than {max_missing:.0%} of the requests are missing",
        ),
    ):
        if names:
            yield f"{len(names)} of {len(table.models)} models are left out ({_some(names)}), since {why}"
    if len(used) < len(table):
        kept = table.select_models(used.models)
        unknown = np.isnan(kept.scores) | np.isnan(kept.cost_usd)
        worst = used.models[int(unknown.sum(axis=0).argmax())]
        yield (
            f"{len(table) - len(used)} of {len(table)} requests are left out, since score or cost of a model that is "
            f"looked at is missing, most often of {worst}"
        )


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
