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
    """List price of one model, in USD per million tokens; finite and not negative.

    `cached_input_usd_per_million` is that of input tokens that come from an engine's prefix cache, at most that of the
    others, so that a worst case without a cache bounds every cost; None: they cost as much as the others.
    """

    input_usd_per_million: float
    output_usd_per_million: float
    cached_input_usd_per_million: float | None = None

    def __post_init__(self) -> None:
        for name in ("input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} is {value}; give a finite price of zero or more")
        if self.cached_usd_per_million > self.input_usd_per_million:
            raise ConfigurationError(
                f"cached_input_usd_per_million is {self.cached_input_usd_per_million}, more than "
                f"input_usd_per_million {self.input_usd_per_million}; give at most that, or none"
            )

    def times(self, factor: float) -> ModelPrice:
        """The price of which everything costs so many times as much."""
        cached = self.cached_input_usd_per_million
        return ModelPrice(
            factor * self.input_usd_per_million,
            factor * self.output_usd_per_million,
            None if cached is None else factor * cached,
        )

    @property
    def cached_usd_per_million(self) -> float:
        """What a million input tokens from a prefix cache cost."""
        cached = self.cached_input_usd_per_million
        return self.input_usd_per_million if cached is None else cached

    def cost_usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> float:
        """Cost of one answer in USD.

        Args:
            cached_tokens: those of `input_tokens` that came from a prefix cache.
        """
        listed = input_tokens * self.input_usd_per_million + output_tokens * self.output_usd_per_million
        return (listed - cached_tokens * (self.input_usd_per_million - self.cached_usd_per_million)) / 1e6


def price_arrays(prices: Iterable[ModelPrice]) -> tuple[FloatArray, FloatArray]:
    """Input and output prices in USD per token, each of shape `(n_models,)`."""
    table = np.array([(p.input_usd_per_million, p.output_usd_per_million) for p in prices], dtype=np.float64)
    table = table.reshape(-1, 2) / 1e6
    return table[:, 0], table[:, 1]


def cache_savings(prices: Iterable[ModelPrice]) -> FloatArray:
    """USD by which an input token is cheaper if it comes from the prefix cache: `(n_models,)`."""
    return np.array([p.input_usd_per_million - p.cached_usd_per_million for p in prices], dtype=np.float64) / 1e6
