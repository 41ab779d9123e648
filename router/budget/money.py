"""Money as whole nano-USD, so that sums are exact; and the most that a request can cost.

A 64-bit integer holds nine billion USD of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import IntArray
from apportion.router.prices import ModelPrice, price_arrays

NANO = 1_000_000_000
_NOISE = 1e-3  # nano-USD; below it a difference to a whole number is float rounding


def to_nano(usd: float) -> int:
    """The nearest whole nano-USD: for what was counted.

    Raises:
        ValueError: the amount is negative or not finite.
    """
    if not (math.isfinite(usd) and usd >= 0):
        raise ValueError(f"usd is {usd}; give a finite number of zero or more")
    return round(usd * NANO)


def from_nano(nano: int) -> float:
    """USD."""
    return nano / NANO


def spelled(nano: int) -> str:
    """For messages: `1.25 USD`, with as many digits as it takes."""
    whole, fraction = divmod(abs(nano), NANO)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{'-' if nano < 0 else ''}{whole}.{digits.ljust(2, '0')} USD"


def worst_case_nano(
    input_tokens: ArrayLike,
    max_tokens: ArrayLike,
    sequences: ArrayLike,
    prompts: ArrayLike,
    max_model_len: ArrayLike,
    prices: Iterable[ModelPrice],
) -> IntArray:
    """The most that each request can cost on each model in nano-USD, rounded up: (n_requests, n_models).

    Input tokens at the input price, and for each sequence the longest answer: `max_tokens`, or what the model's
    context leaves room for, whichever is less.

    Args:
        input_tokens: (n_requests, n_models), summed over a request's prompts.
        max_tokens: (n_requests,) or (n_requests, n_models), `inf` where nobody says.
        sequences: (n_requests,), answers that a request asks for, over all its prompts.
        prompts: (n_requests,), prompts of a request; with several, the shortest may leave nearly all the context.
        max_model_len: (n_models,), longest prompt plus answer.
    """
    tokens = np.asarray(input_tokens, dtype=np.float64)
    context = np.asarray(max_model_len, dtype=np.float64)[None, :]
    several = np.asarray(prompts)[:, None] > 1
    most = np.asarray(max_tokens, dtype=np.float64)
    room = np.where(several, context - 1, context - tokens).clip(min=1)
    answer = np.minimum(most[:, None] if most.ndim == 1 else most, room)
    input_price, output_price = price_arrays(prices)
    usd = tokens * input_price + answer * np.asarray(sequences, dtype=np.float64)[:, None] * output_price
    nano: IntArray = np.ceil(usd * NANO - _NOISE).astype(np.int64)
    return nano
