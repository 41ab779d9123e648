"""How long answers are of what was expected, by model: what is learned of it corrects the next expectations at once."""

from __future__ import annotations

import numpy as np

from apportion.router.arrays import FloatArray

MEMORY = 500  # answers that a ratio is of, about
PRIOR = 20.0  # answers that were as long as expected, which each model is thought to have given before
LOWEST, HIGHEST = 0.5, 2.0


class Ratios:
    """Ratios of sums, in which the last answers count most: what happened over what was expected, by model.

    Args:
        n_models: M of them.
    """

    def __init__(self, n_models: int) -> None:
        self._happened = np.zeros(n_models)
        self._expected = np.zeros(n_models)
        self._answers = np.zeros(n_models)

    def learn(self, model: int, happened: float, expected: float) -> None:
        """One more answer of the model."""
        keep = 1 - 1 / MEMORY
        self._happened[model] = keep * self._happened[model] + happened
        self._expected[model] = keep * self._expected[model] + expected
        self._answers[model] = keep * self._answers[model] + 1

    @property
    def bounded(self) -> FloatArray:
        """(M,) ratios that nothing is corrected beyond."""
        return np.clip(self.values, LOWEST, HIGHEST)

    @property
    def values(self) -> FloatArray:
        """(M,) ratios, drawn to 1 where few answers are known."""
        usual = PRIOR * self._expected / np.maximum(self._answers, 1.0)
        known = self._expected > 0
        ratio = (self._happened + usual) / np.where(known, self._expected + usual, 1.0)
        return np.where(known, ratio, 1.0)
