"""What a request is expected to cost: the one formula of serving, assigning, planning, simulating and evaluating.

It stands on the ground floor of the library because the rooms that need it (prediction, batch, evaluation, and
allocation above them) share no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import FloatArray
from apportion.router.prices import ModelPrice, price_arrays


def expected_cost(
    output_tokens: ArrayLike,
    output_tokens_std: ArrayLike,
    input_tokens: ArrayLike,
    prices: Sequence[ModelPrice],
    *,
    max_output_tokens: ArrayLike | None = None,
    context: ArrayLike | None = None,
    sequences: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the cost of N requests on M models in USD, both (N, M).

    An answer's length is a log-normal variable, cut off where the request or the model's context ends it.

    Args:
        output_tokens: (N, M), mean length of one answer.
        output_tokens_std: (N, M), standard deviation of that length.
        input_tokens: (N, M), or (N,) when all models count alike.
        prices: M of them.
        max_output_tokens: (N,) or (N, M), inf where nothing limits an answer beside the context; None: nothing does.
        context: (M,), tokens of prompt and answer together; None: without end.
        sequences: (N,), answers to each request, independent of each other; None: 1 each.
    """
    counts = np.asarray(input_tokens, dtype=np.float64)
    counts = counts[:, None] if counts.ndim == 1 else counts
    tokens, tokens_std = answered_tokens(
        output_tokens,
        output_tokens_std,
        counts,
        max_output_tokens=max_output_tokens,
        context=context,
        sequences=sequences,
    )
    return cost_of_tokens(counts, tokens, tokens_std, prices)


def cost_of_tokens(
    input_tokens: FloatArray, answered: FloatArray, answered_std: FloatArray, prices: Sequence[ModelPrice]
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the cost of N requests on M models in USD; every array is (N, M).

    Args:
        answered: tokens of all of a request's answers, expected.
        answered_std: their standard deviation.
    """
    usd_per_input, usd_per_output = price_arrays(prices)
    return input_tokens * usd_per_input + answered * usd_per_output, answered_std * usd_per_output


def answered_tokens(
    output_tokens: ArrayLike,
    output_tokens_std: ArrayLike,
    input_tokens: FloatArray,
    *,
    max_output_tokens: ArrayLike | None = None,
    context: ArrayLike | None = None,
    sequences: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the tokens of all of a request's answers, both (N, M), at whatever prices.

    The arguments are those of `expected_cost`, `input_tokens` (N, M).
    """
    mean, std = np.asarray(output_tokens, dtype=np.float64), np.asarray(output_tokens_std, dtype=np.float64)
    limit = _limit(input_tokens, mean.shape, max_output_tokens, context)
    if np.isfinite(limit).any():
        mean, std = _cut_off(mean, std, limit)
    answers = 1.0 if sequences is None else np.asarray(sequences, dtype=np.float64)[:, None]
    return mean * answers, std * np.sqrt(answers)


def corrected_cost(
    cost_usd: FloatArray,
    cost_std_usd: FloatArray,
    input_tokens: FloatArray,
    prices: Sequence[ModelPrice],
    ratios: FloatArray,
    most_tokens: FloatArray,
    read: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Expected costs and their standard deviations, (N, M), of answers that turn out longer or shorter.

    Args:
        ratios: (M,), how long answers are of what was expected.
        most_tokens: (N, M), that all answers to a request can have together; inf where nothing limits them.
        read: (M,), how long prompts are of what was counted; None: as long.
    """
    usd_per_input, usd_per_output = price_arrays(prices)
    input_usd = input_tokens * usd_per_input
    expected = cost_usd - input_usd
    with np.errstate(invalid="ignore"):  # without end, and free: fmax passes over it
        longer = np.minimum(expected * ratios, np.fmax(most_tokens * usd_per_output, expected))
    return input_usd * (1.0 if read is None else read) + longer, cost_std_usd * ratios


def _limit(
    input_tokens: FloatArray, shape: tuple[int, ...], asked: ArrayLike | None, context: ArrayLike | None
) -> FloatArray:
    """Tokens at which each answer ends at the latest, (N, M); a prompt that fills the context leaves one."""
    limit = np.full(shape, np.inf)
    if asked is not None:
        most = np.asarray(asked, dtype=np.float64)
        limit = np.minimum(limit, most[:, None] if most.ndim == 1 else most)
    if context is not None:
        limit = np.minimum(limit, np.maximum(np.asarray(context, dtype=np.float64) - input_tokens, 1.0))
    return limit


def _cut_off(mean: FloatArray, std: FloatArray, limit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of min(L, limit) for a log-normal L with the given two moments.

    In closed form; lengths that are sure, or not limited, or unknown (NaN) need none.
    """
    from scipy.special import ndtr

    sure = ~(mean > 0) | ~(std > 0)
    some = np.where(sure, 1.0, mean), np.where(sure, 1.0, std)
    end = np.where(np.isfinite(limit), limit, 1.0)
    variance = np.maximum(np.log1p((some[1] / some[0]) ** 2), 1e-12)
    z = (np.log(end) - np.log(some[0]) + variance / 2) / np.sqrt(variance)
    tail = ndtr(-z)
    first = some[0] * ndtr(z - np.sqrt(variance)) + end * tail
    second = (some[0] ** 2 + some[1] ** 2) * ndtr(z - 2 * np.sqrt(variance)) + end**2 * tail
    spread = np.sqrt(np.maximum(second - first**2, 0.0))
    first = np.where(sure, np.minimum(mean, limit), first)
    spread = np.where(sure, np.minimum(std, limit), spread)
    endless = ~np.isfinite(limit)
    return np.where(endless, mean, first), np.where(endless, std, spread)
