"""What a model's tokens cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.errors import ConfigurationError


@dataclass(frozen=True)
class ModelPrice:
    """List price of one model, in USD per million tokens; both finite and not negative."""

    input_usd_per_million: float
    output_usd_per_million: float

    def __post_init__(self) -> None:
        for name in ("input_usd_per_million", "output_usd_per_million"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} is {value}; give a finite price of zero or more")

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Cost of one answer in USD."""
        return (input_tokens * self.input_usd_per_million + output_tokens * self.output_usd_per_million) / 1e6


def price_arrays(prices: Iterable[ModelPrice]) -> tuple[FloatArray, FloatArray]:
    """Input and output prices in USD per token, each of shape `(n_models,)`."""
    table = np.array([(p.input_usd_per_million, p.output_usd_per_million) for p in prices], dtype=np.float64)
    table = table.reshape(-1, 2) / 1e6
    return table[:, 0], table[:, 1]
