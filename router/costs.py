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
    min_output_tokens: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the cost of N requests on M models in USD, both (N, M).

    An answer's length is a log-normal variable, cut off where the request or the model's context ends it, and filled up
    to what it has to have.

    Args:
        output_tokens: (N, M), mean length of one answer.
        output_tokens_std: (N, M), standard deviation of that length.
        input_tokens: (N, M), or (N,) when all models count alike.
        prices: M of them.
        max_output_tokens: (N,) or (N, M), inf where nothing limits an answer beside the context; None: nothing does.
        context: (M,), tokens of prompt and answer together; None: without end.
        sequences: (N,), answers to each request, independent of each other; None: 1 each.
        min_output_tokens: (N,) or (N, M), tokens that an answer has at least, unless its end comes before; None: any.
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
        min_output_tokens=min_output_tokens,
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
    min_output_tokens: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the tokens of all of a request's answers, both (N, M), at whatever prices.

    The arguments are those of `expected_cost`, `input_tokens` (N, M).
    """
    mean, std = np.asarray(output_tokens, dtype=np.float64), np.asarray(output_tokens_std, dtype=np.float64)
    limit = _limit(input_tokens, mean.shape, max_output_tokens, context)
    least = np.zeros(mean.shape)
    if min_output_tokens is not None:
        least = np.minimum(_by_pair(min_output_tokens), limit)
    if np.isfinite(limit).any() or least.any():
        mean, std = _bounded(mean, std, least, limit)
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
    least_tokens: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Expected costs and their standard deviations, (N, M), of answers that turn out longer or shorter.

    Args:
        ratios: (M,), how long answers are of what was expected.
        most_tokens: (N, M), that all answers to a request can have together; inf where nothing limits them.
        read: (M,), how long prompts are of what was counted; None: as long.
        least_tokens: (N, 1), that all answers to a request have together, as far as they fit; None: any.
    """
    usd_per_input, usd_per_output = price_arrays(prices)
    input_usd = input_tokens * usd_per_input
    expected = cost_usd - input_usd
    with np.errstate(invalid="ignore"):  # without end, and free: fmax passes over it
        longer = np.minimum(expected * ratios, np.fmax(most_tokens * usd_per_output, expected))
    if least_tokens is not None:
        longer = np.maximum(longer, np.minimum(least_tokens * usd_per_output, expected))
    return input_usd * (1.0 if read is None else read) + longer, cost_std_usd * ratios


def _limit(
    input_tokens: FloatArray, shape: tuple[int, ...], asked: ArrayLike | None, context: ArrayLike | None
) -> FloatArray:
    """Tokens at which each answer ends at the latest, (N, M); a prompt that fills the context leaves one."""
    limit = np.full(shape, np.inf)
    if asked is not None:
        limit = np.minimum(limit, _by_pair(asked))
    if context is not None:
        limit = np.minimum(limit, np.maximum(np.asarray(context, dtype=np.float64) - input_tokens, 1.0))
    return limit


def _by_pair(tokens: ArrayLike) -> FloatArray:
    """(N, 1) or (N, M), of (N,) or (N, M)."""
    found = np.asarray(tokens, dtype=np.float64)
    return found[:, None] if found.ndim == 1 else found


def _bounded(mean: FloatArray, std: FloatArray, least: FloatArray, limit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of max(least, min(L, limit)) for a log-normal L with the given two moments.

    In closed form; lengths that are sure, or have no bounds, or are unknown (NaN) need none. No `least` is above its
    `limit`.
    """
    sure = ~(mean > 0) | ~(std > 0)
    some = np.where(sure, 1.0, mean), np.where(sure, 1.0, std)
    below, above = _moments_up_to(least, *some), _moments_up_to(limit, *some)
    first = least + above[0] - below[0]
    spread = np.sqrt(np.maximum(least**2 + above[1] - below[1] - first**2, 0.0))
    free = np.isinf(limit) & (least == 0)
    return (
        np.where(free, mean, np.where(sure, np.clip(mean, least, limit), first)),
        np.where(free, std, np.where(sure, np.minimum(std, limit), spread)),
    )


def _moments_up_to(end: FloatArray, mean: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
    """First and second moment of min(L, end)."""
    from scipy.special import ndtr

    some = np.where(np.isfinite(end) & (end > 0), end, 1.0)
    variance = np.maximum(np.log1p((std / mean) ** 2), 1e-12)
    z = (np.log(some) - np.log(mean) + variance / 2) / np.sqrt(variance)
    tail, square = ndtr(-z), mean**2 + std**2
    first = mean * ndtr(z - np.sqrt(variance)) + some * tail
    second = square * ndtr(z - 2 * np.sqrt(variance)) + some**2 * tail
    endless, none = np.isinf(end), end == 0
    return (
        np.where(none, 0.0, np.where(endless, mean, first)),
        np.where(none, 0.0, np.where(endless, square, second)),
    )
