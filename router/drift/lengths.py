"""How long answers are of what was expected, by model: what is learned of it corrects the next expectations at once."""

from __future__ import annotations

import numpy as np

from apportion.router.arrays import FloatArray

MEMORY = 500  # answers that a ratio is of, about
PRIOR = 20.0  # answers that were as long as expected, which each model is thought to have given before
LOWEST, HIGHEST = 0.5, 2.0
_KEEP = 1 - 1 / MEMORY


class Ratios:
    """Ratios of sums, in which the last answers count most: what happened over what was expected, by model.

    Args:
        n_models: M of them.
    """

    def __init__(self, n_models: int) -> None:
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
        return np.array([min(max(ratio, LOWEST), HIGHEST) for ratio in self._ratios()])

    @property
    def values(self) -> FloatArray:
        """(M,) ratios, drawn to 1 where few answers are known."""
        return np.array(self._ratios())

    def _ratios(self) -> list[float]:
        return [
            (happened + PRIOR * expected / answers) / (expected + PRIOR * expected / answers) if expected > 0 else 1.0
            for happened, expected, answers in zip(self._happened, self._expected, self._answers, strict=True)
        ]
