"""What is estimated of a batch when there is no predictor: mean success, bounds of inputs, usual lengths of answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.batch.messages import RouteItem
from apportion.router.costs import expected_cost
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice

LENGTHS_MEMORY = 256  # requests that the usual length of answers is a mean of, about


def content_bytes(item: RouteItem) -> int:
    """Size in UTF-8 of what a request's prompt is made of: no byte-level tokenizer makes more tokens of it."""
    parts = [item.content, *(part for part in (item.tools, item.template_variables) if part)]
    return sum(len((part if isinstance(part, str) else repr(part)).encode(errors="replace")) for part in parts)


class TypicalLengths:
    """How long answers were predicted to be of late: what is left to plan with when predictions cease.

    Args:
        max_tokens: (M,), the longest answer that a model may give; it stands until something was predicted.
    """

    def __init__(self, max_tokens: FloatArray) -> None:
        self.tokens = max_tokens  # (M,), a sequence
        self._learned = False

    def learn(self, estimates: Estimates) -> None:
        """Takes a batch's predictions into the mean, in which the last requests count most."""
        good = [row for row in range(len(estimates.success)) if row not in estimates.errors]
        if good:
            mean = estimates.output_tokens[good].mean(axis=0)
            keep = math.exp(-len(good) / LENGTHS_MEMORY) if self._learned else 0.0
            self.tokens = keep * self.tokens + (1 - keep) * mean
            self._learned = True


def prior_estimates(
    items: Sequence[RouteItem], mean_success: FloatArray, prices: Sequence[ModelPrice], typical_tokens: FloatArray
) -> Estimates:
    """Estimates without a predictor: each model's mean success, bounds of the inputs, and usual lengths of answers.

    Worst cases are not taken for costs here: a cap on expected costs would refuse what it has always paid for.
    Budgets set aside worst cases whatever is estimated.

    Args:
        mean_success: (M,), from the artefact.
        typical_tokens: (M,), of an answer.
    """
    n, m = len(items), len(mean_success)
    asked = np.array([item.max_tokens or np.inf for item in items], dtype=float)
    sequences = np.array([item.sequences for item in items], dtype=float)
    # Templates add a few tokens to a chat; 32 covers the common ones.
    input_tokens = np.repeat(np.array([content_bytes(item) + 32.0 for item in items])[:, None], m, axis=1)
    usual = np.repeat(typical_tokens[None, :], n, axis=0)
    cost_usd, cost_std_usd = expected_cost(
        usual, np.zeros((n, m)), input_tokens, prices, max_output_tokens=asked, sequences=sequences
    )
    return Estimates(
        success=np.repeat(mean_success[None, :], n, axis=0),
        success_std=np.zeros((n, m)),
        cost_usd=cost_usd,
        cost_std_usd=cost_std_usd,
        input_tokens=input_tokens,
        output_tokens=np.minimum(usual, asked[:, None]),
        guessed=frozenset(range(n)),
    )
