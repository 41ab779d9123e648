"""How long answers are of what was expected, by model: what is learned of it corrects the next expectations at once.

And prompts, of models whose tokenizers nobody has: these are counted as their bytes, the most that they can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray

MEMORY = 500  # answers that a ratio is of, about
PRIOR = 20.0  # answers that were as long as expected, which each model is thought to have given before
LOWEST, HIGHEST = 0.5, 2.0
TOKENS_PER_BYTE = 0.3  # of texts in most languages, before a provider has counted any
LEAST_PER_BYTE = 0.02
_KEEP = 1 - 1 / MEMORY


class Ratios:
    """Ratios of sums, in which the last answers count most: what happened over what was expected, by model.

    Args:
        n_models: M of them.
        prior: (M,), ratios before anything has happened; None: 1.
        bounds: that nothing is corrected beyond.
    """

    def __init__(
        self, n_models: int, prior: Sequence[float] | None = None, bounds: tuple[float, float] = (LOWEST, HIGHEST)
    ) -> None:
        self._prior = [1.0] * n_models if prior is None else list(prior)
        self._bounds = bounds
        # Lists: each request changes one number, which in an array takes ten times as long.
        self._happened, self._expected, self._answers = ([0.0] * n_models for _ in range(3))

    def learn(self, model: int, happened: float, expected: float) -> None:
        """One more answer of the model."""
        self._happened[model] = _KEEP * self._happened[model] + happened
        self._expected[model] = _KEEP * self._expected[model] + expected
        self._answers[model] = _KEEP * self._answers[model] + 1

    @property
    def bounded(self) -> FloatArray:
        """(M,) ratios that nothing is corrected beyond."""
        lowest, highest = self._bounds
        return np.array([min(max(ratio, lowest), highest) for ratio in self._ratios()])

    @property
    def values(self) -> FloatArray:
        """(M,) ratios, drawn to what was thought before where few answers are known."""
        return np.array(self._ratios())

    def _ratios(self) -> list[float]:
        return [
            (happened + PRIOR * prior * expected / answers) / (expected + PRIOR * expected / answers)
            if expected > 0
            else prior
            for happened, expected, answers, prior in zip(
                self._happened, self._expected, self._answers, self._prior, strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of what was expected.

    Args:
        answers: how long they are.
        prompts: the same of those that are counted as bytes; of others it is 1.
        by_bytes: (M,), whether a model's prompts are.
    """

    answers: Ratios
    prompts: Ratios
    by_bytes: tuple[bool, ...]

    @classmethod
    def of(cls, by_bytes: Sequence[bool]) -> Lengths:
        """Before anything has happened."""
        prior = [TOKENS_PER_BYTE if unknown else 1.0 for unknown in by_bytes]
        prompts = Ratios(len(prior), prior, (LEAST_PER_BYTE, 1.0))
        return cls(Ratios(len(prior)), prompts, tuple(by_bytes))
