"""Simulated efforts: what the models of a recorded table would make of its prompts if they thought less, or more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.variants import variant_name
from benchmarks.experiments.cases import Dataset, Progress

BRIEF, PLAIN, THINK = "brief", "plain", "think"
VARIANTS = (BRIEF, PLAIN, THINK)
CODE = ("benchmarks/experiments/efforts.py", "router/variants.py")


@dataclass(frozen=True)
class Effort:
    """What is assumed of thinking.

    repairs: chance that thinking makes a wrong answer right, of a prompt that nearly every model gets right; it falls
    to 0 for prompts that none does. breaks: chance that it makes a right one wrong. think_tokens: of the recorded ones.
    loses: chance that a brief answer is wrong where the recorded one was right, of a prompt that no model gets right;
    it falls to 0 for those that all do. brief_tokens: of the recorded ones.
    """

    repairs: float
    breaks: float = 0.02
    think_tokens: float = 4.0
    loses: float = 0.3
    brief_tokens: float = 0.4


EFFORTS = {"large gain": Effort(repairs=0.6), "small gain": Effort(repairs=0.2), "no gain": Effort(repairs=0.0)}
"""Chosen to lie around what is published of models that can think or not, where thinking costs several times the tokens
and brings from nothing to more than half of what is wrong; none of it is measured here."""


def with_efforts(table: OutcomesTable, effort: Effort, seed: int) -> OutcomesTable:
    """The table with three columns for each of its models.

    Whether thinking helps depends on how hard the prompt is, which shows in how many of the table's models get it
    right, and beyond that on chance.
    """
    rng = np.random.default_rng(seed)
    n, m = table.scores.shape
    easy = ((table.scores.sum(axis=1) + 1) / (m + 2))[:, None]
    repaired = rng.random((n, m)) < effort.repairs * easy
    broken = rng.random((n, m)) < effort.breaks
    lost = rng.random((n, m)) < effort.loses * (1 - easy)
    score = {
        BRIEF: np.where(lost, 0.0, table.scores),
        PLAIN: table.scores,
        THINK: np.where(broken, 0.0, np.where(repaired, 1.0, table.scores)),
    }
    longer = {BRIEF: effort.brief_tokens, PLAIN: 1.0, THINK: effort.think_tokens}
    output_usd = np.array([price.output_usd_per_million for price in table.price_list()]) / 1e6 * table.output_tokens

    def columns(by_variant: dict[str, FloatArray]) -> FloatArray:
        return np.stack([by_variant[name] for name in VARIANTS], axis=2).reshape(n, -1)

    return OutcomesTable(
        table.queries,
        tuple(variant_name(model, name) for model in table.models for name in VARIANTS),
        columns(score),
        np.repeat(table.input_tokens, len(VARIANTS), axis=1),
        columns({name: table.output_tokens * times for name, times in longer.items()}),
        columns({name: np.maximum(table.cost_usd + (times - 1) * output_usd, 0.0) for name, times in longer.items()}),
    )


def undominated(table: OutcomesTable) -> list[str]:
    """Models that no other one beats in mean score at no more mean cost."""
    score, cost_usd = table.scores.mean(axis=0), table.cost_usd.mean(axis=0)
    beaten = ((score[None, :] > score[:, None]) & (cost_usd[None, :] <= cost_usd[:, None])).any(axis=1)
    return [model for model, worse in zip(table.models, beaten.tolist(), strict=True) if not worse]


@dataclass(frozen=True)
class EffortDataset(Dataset):
    """A recorded table with simulated efforts, of its undominated models; of these the columns of some variants.

    effort: one of `EFFORTS`; variants: that may be chosen from.
    """

    effort: str = "large gain"
    variants: tuple[str, ...] = VARIANTS

    def prepared(self, progress: Progress | None = None) -> tuple[OutcomesTable, Features]:
        """The simulated table, and the features of its prompts."""
        table, features = self.simulated(progress)
        return table.select_models([name for name in table.models if name.endswith(self.variants)]), features

    def simulated(self, progress: Progress | None = None) -> tuple[OutcomesTable, Features]:
        """The same with all variants."""
        recorded, features = Dataset(self.folder, self.encoder, self.cache).prepared(progress)
        kept = recorded.select_models(undominated(recorded))
        return with_efforts(kept, EFFORTS[self.effort], seed=0), features

    def _key(self, *code: str) -> tuple[str, ...]:
        return *super()._key(*code, *CODE), self.effort, *self.variants
