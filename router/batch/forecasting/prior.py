"""What is expected of a request without a predictor: mean success, a bound of its input, usual lengths of answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.batch.prompt import Prompt
from apportion.router.costs import answered_tokens
from apportion.router.unpriced import Unpriced

LENGTHS_MEMORY = 256  # requests that the usual length of answers is a mean of, about


def content_bytes(prompt: Prompt) -> int:
    """Size in UTF-8 of what a prompt is made of: no byte-level tokenizer makes more tokens of it."""
    parts = [prompt.content, *(part for part in (prompt.tools, prompt.template_variables) if part)]
    return sum(len((part if isinstance(part, str) else repr(part)).encode(errors="replace")) for part in parts)


class TypicalLengths:
    """How long answers were predicted to be of late: what is left to plan with when predictions cease.

    Args:
        max_tokens: (M,), the longest answer that a model may give; it stands until something was predicted.
    """

    def __init__(self, max_tokens: FloatArray) -> None:
        self.tokens = max_tokens  # (M,), a sequence
        self._learned = False

    def learn(self, forecast: Unpriced) -> None:
        """Takes predictions into the mean, in which the last requests count most."""
        good = [row for row in range(len(forecast)) if row not in forecast.errors]
        if good:
            mean = forecast.layer("output_tokens")[good].mean(axis=0)
            keep = math.exp(-len(good) / LENGTHS_MEMORY) if self._learned else 0.0
            self.tokens = keep * self.tokens + (1 - keep) * mean
            self._learned = True


def prior_forecast(
    prompt: Prompt, models: Sequence[str], mean_success: FloatArray, typical_tokens: FloatArray
) -> Unpriced:
    """A forecast without a predictor: each model's mean success, a bound of the input, and usual lengths of answers.

    Worst cases are not taken for costs here: a cap on expected costs would refuse what it has always paid for.
    Budgets set aside worst cases whatever is expected.

    Args:
        mean_success: (M,), from the artefact.
        typical_tokens: (M,), of an answer.
    """
    asked = np.array([prompt.max_tokens or np.inf], dtype=float)
    # Templates add a few tokens to a chat; 32 covers the common ones.
    input_tokens = np.full((1, len(models)), content_bytes(prompt) + 32.0)
    usual, sure = typical_tokens[None, :], np.zeros((1, len(models)))
    answered, answered_std = answered_tokens(
        usual,
        sure,
        input_tokens,
        max_output_tokens=asked,
        sequences=[prompt.sequences],
        min_output_tokens=[prompt.min_tokens],
    )
    output = np.minimum(np.maximum(usual, prompt.min_tokens), asked[:, None])
    layers = (mean_success[None, :], sure, input_tokens, output, answered, answered_std)
    return Unpriced(tuple(models), np.stack(layers), guessed=frozenset({0}))
