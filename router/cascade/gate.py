"""Which pairs of models are offered as cascades: those whose gain over routing held-out outcomes prove.

Both ways, routing with a pair and without, are followed at prices of cost from nothing to prohibitive, on rows with
real scores, costs and signals. What is compared is the mean score at the *same realised spend*, all stages paid. A
row's posterior and shifts are learned from the other folds' rows. A pair passes where its gain is above 0 with
one-sided 99 % confidence over all pairs that are tried (Bonferroni), and where enough requests took it for that to
mean something. Pairs are tried in the order of what they promise, each beside those that have passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import NamedTuple

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.policies import worth
from apportion.router.cascade.posterior import Posterior, learnable

MOST_PAIRS = 3
FEWEST_ROWS = 100
"""With everything known: fewer prove nothing."""

_TRIED = 6
_LEVEL = 0.01
_FEWEST_TAKEN = 30
_FOLDS = 5
_PRICES = np.concatenate([[0.0], np.geomspace(0.01, 1000, 39)])  # in success per mean cost of the dearest model
_SPENDS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # shares of what the best single model costs
_TIE = 1e-9


@dataclass(frozen=True)
class Trial:
    """What the rows said of a pair.

    gain: mean score gained at equal spend over routing with the pairs before it. at_least: its one-sided bound, of 99 %
    over all trials. taken: rows that took the pair at one of the prices at least.
    """

    first: str
    second: str
    gain: float
    at_least: float
    taken: int

    @property
    def passed(self) -> bool:
        return self.at_least > 0 and self.taken >= _FEWEST_TAKEN


@dataclass(frozen=True)
class Gate:
    """The pairs that passed, every trial, and why there was none where that is so."""

    pairs: tuple[Pair, ...] = ()
    trials: tuple[Trial, ...] = ()
    closed: str | None = None

    @property
    def sentences(self) -> list[str]:
        """What was found, for people."""
        if self.closed is not None:
            return [f"no cascades: {self.closed}"]
        return [
            f"cascade {t.first} > {t.second}: {'offered' if t.passed else 'not offered'}, at equal spend it gains "
            f"{100 * t.gain:+.2f} points over routing, proved {100 * t.at_least:+.2f}"
            + (f"; only {t.taken} requests took it" if t.taken < _FEWEST_TAKEN else "")
            for t in self.trials
        ]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """N requests that nothing was trained on: success and cost_usd as expected, scores and paid_usd as they were, all
    (N, M); signals (N, M, 4), NaN where an answer has none.
    """

    models: tuple[str, ...]
    success: FloatArray
    cost_usd: FloatArray
    scores: FloatArray
    paid_usd: FloatArray
    signals: FloatArray

    def __len__(self) -> int:
        return len(self.success)

    def subset(self, rows: BoolArray | IntArray) -> HeldOut:
        """These rows."""
        names = ("success", "cost_usd", "scores", "paid_usd", "signals")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def fit_gate(held_out: HeldOut, seed: int = 0) -> Gate:
    """Try the pairs and learn those that pass from all rows; rows whose outcomes are not all known are left out."""
    tables = (held_out.success, held_out.cost_usd, held_out.scores, held_out.paid_usd)
    rows = held_out.subset(np.flatnonzero(np.isfinite(np.stack(tables)).all(axis=(0, 2))))
    if len(rows) < FEWEST_ROWS:
        return Gate(closed=f"{len(rows)} held-out requests have all outcomes, {FEWEST_ROWS} are needed")
    firsts = [j for j in range(len(rows.models)) if learnable(rows.signals[:, j], rows.scores[:, j])]
    cost_usd = rows.paid_usd.mean(axis=0)
    pairs = [(a, b) for a, b in permutations(range(len(rows.models)), 2) if a in firsts and cost_usd[a] < cost_usd[b]]
    if not pairs:
        return Gate(closed="no model that costs less than another has right and wrong answers with signals enough")
    trials, passed = _Trials.of(rows, seed).run(pairs)
    return Gate(tuple(fit_pair(rows, rows.models[a], rows.models[b]) for a, b in passed), trials)


def fit_pair(held_out: HeldOut, first: str, second: str) -> Pair:
    """The pair as these rows teach it, whether or not it is worth anything."""
    a, b = held_out.models.index(first), held_out.models.index(second)
    return _pair(held_out, a, b, _posterior(held_out, a))


class _Way(NamedTuple):
    """A way to answer N requests at P prices, (P, N) each: what it is worth at its price, its score, and its cost."""

    value: FloatArray
    score: FloatArray
    paid_usd: FloatArray


@dataclass(eq=False)
class _Trials:
    """Pairs beside routing: `way` is routing with the pairs that have passed."""

    rows: HeldOut
    prices: FloatArray
    folds: IntArray
    way: _Way
    posteriors: dict[tuple[int, int], Posterior] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: HeldOut, seed: int) -> _Trials:
        prices = _PRICES / rows.paid_usd.mean(axis=0).max()
        value = rows.success - prices[:, None, None] * rows.cost_usd
        chosen, index = value.argmax(axis=2), np.arange(len(rows))
        folds = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
        way = _Way(value.max(axis=2), rows.scores[index, chosen], rows.paid_usd[index, chosen])
        return cls(rows, prices, folds, way)

    def run(self, pairs: Sequence[tuple[int, int]]) -> tuple[tuple[Trial, ...], list[tuple[int, int]]]:
        """The trials, and the pairs that passed."""
        policies = {pair: self._followed(*pair) for pair in pairs}
        promised = {pair: np.maximum(way.value - self.way.value, 0).mean() for pair, way in policies.items()}
        likeliest = sorted(pairs, key=promised.__getitem__, reverse=True)[:_TRIED]
        trials: list[Trial] = []
        passed: list[tuple[int, int]] = []
        for pair in likeliest:
            if len(passed) == MOST_PAIRS:
                break
            trial, beside = self._trial(pair, policies[pair], len(likeliest))
            trials.append(trial)
            if trial.passed:
                passed.append(pair)
                self.way = beside
        return tuple(trials), passed

    def _followed(self, a: int, b: int) -> _Way:
        """The pair's policy, each row by what the other folds taught."""
        found = _Way(*(np.empty_like(self.way.value) for _ in _Way._fields))
        for fold in range(_FOLDS):
            inside, known = self.folds == fold, self.rows.subset(self.folds != fold)
            if (a, fold) not in self.posteriors:
                self.posteriors[a, fold] = _posterior(known, a)
            pair = _pair(known, a, b, self.posteriors[a, fold])
            for whole, part in zip(found, _follow(pair, self.rows.subset(inside), a, b, self.prices), strict=True):
                whole[:, inside] = part
        return found

    def _trial(self, pair: tuple[int, int], policy: _Way, tried: int) -> tuple[Trial, _Way]:
        """What the pair gains beside those that passed, and routing with it."""
        from scipy.special import ndtri

        takes = policy.value > self.way.value + _TIE
        beside = _Way(*(np.where(takes, new, old) for new, old in zip(policy, self.way, strict=True)))
        best = self.rows.scores.mean(axis=0).argmax()
        gains = matched_gains(
            self.way.score, self.way.paid_usd, beside.score, beside.paid_usd,
            limits=np.array(_SPENDS) * self.rows.paid_usd[:, best].mean(),
        )  # fmt: skip
        gain, error = float(gains.mean()), float(gains.std()) / len(gains) ** 0.5
        first, second = (self.rows.models[j] for j in pair)
        at_least = gain - float(ndtri(1 - _LEVEL / tried)) * error
        return Trial(first, second, gain, at_least, int(takes.any(axis=0).sum())), beside


def matched_gains(
    score: FloatArray, paid_usd: FloatArray, other_score: FloatArray, other_paid_usd: FloatArray, limits: FloatArray
) -> FloatArray:
    """(N,) what each request adds to the mean gain of the other way at the same realised spend.

    Both ways are (P, N) outcomes at P prices; at a spend in between, requests are divided among the two nearest. The
    spend that a request adds is charged at what routing makes of money there, so that the spread of the gains also
    tells how sure the match itself is (delta method).

    Args:
        limits: spends a request, USD, to be compared at; those that one of the ways cannot keep are left out.
    """
    gains = []
    for limit in limits:
        one, other = _at(score, paid_usd, limit), _at(other_score, other_paid_usd, limit)
        if one is not None and other is not None:
            gains.append(other[0] - one[0] - one[2] * (other[1] - one[1]))
    return np.asarray(np.mean(gains, axis=0)) if gains else np.zeros(score.shape[1])


def _at(score: FloatArray, paid_usd: FloatArray, limit: float) -> tuple[FloatArray, FloatArray, float] | None:
    """(N,) scores and costs where the mean spend is the limit, and what a USD more would add to the mean score."""
    spend = paid_usd.mean(axis=1)
    order = np.argsort(spend, kind="stable")
    above = int(np.searchsorted(spend[order], limit))
    if above == 0:
        return None
    low = order[above - 1]
    if above == len(order):
        return score[low], paid_usd[low], 0.0
    high = order[above]
    share = (limit - spend[low]) / (spend[high] - spend[low])
    slope = max(float(score[high].mean() - score[low].mean()) / float(spend[high] - spend[low]), 0.0)
    mixed_score = share * score[high] + (1 - share) * score[low]
    return mixed_score, share * paid_usd[high] + (1 - share) * paid_usd[low], slope


def _posterior(rows: HeldOut, first: int) -> Posterior:
    return Posterior.fit(rows.success[:, first], rows.signals[:, first], rows.scores[:, first])


def _pair(rows: HeldOut, a: int, b: int, posterior: Posterior) -> Pair:
    return Pair.fit(rows.models[a], rows.models[b], posterior, rows.success[:, b], rows.scores[:, [a, b]])


def _follow(pair: Pair, rows: HeldOut, a: int, b: int, prices: FloatArray) -> _Way:
    """The policy's value by what is expected at each price, its score and its cost as they really were."""
    charge = prices[:, None] * rows.cost_usd[:, b]
    first, second = rows.success[:, a], rows.success[:, b]
    success, escalation = (found[..., 0] for found in worth([pair], first[:, None], second[:, None], charge[..., None]))
    value = success - prices[:, None] * rows.cost_usd[:, a] - escalation * charge
    kept = pair.posterior(first, rows.signals[:, a]) >= pair.threshold(second, charge)
    score = np.where(kept, rows.scores[:, a], rows.scores[:, b])
    return _Way(value, score, rows.paid_usd[:, a] + np.where(kept, 0.0, rows.paid_usd[:, b]))
