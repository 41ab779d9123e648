"""What the predictor says of a batch, as arrays; rows can be kept and put together again for a later batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.batch.messages import RouteItem
from apportion.router.errors import ApportionError
from apportion.router.prices import ModelPrice, price_arrays

LENGTHS_MEMORY = 256  # requests that the usual length of answers is a mean of, about
_ARRAYS = ("success", "success_std", "cost_usd", "cost_std_usd", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Estimates:
    """Predictions for N requests and M models; every array is (N, M), `success_samples` (B, N, M).

    `calibrated_success` is (N, M) too: `success` before the incumbent's was lifted; None where nothing was.
    `errors` holds the rows that could not be predicted; their values are placeholders.
    """

    success: FloatArray
    success_std: FloatArray
    cost_usd: FloatArray
    cost_std_usd: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    success_samples: FloatArray | None = None
    errors: Mapping[int, ApportionError] = field(default_factory=dict)
    predicted: bool = True
    calibrated_success: FloatArray | None = None

    def before_lift(self) -> FloatArray:
        """(N, M) calibrated success of every model, the incumbent's not lifted."""
        return self.success if self.calibrated_success is None else self.calibrated_success

    def check(self, n_requests: int, n_models: int) -> None:
        """Raises: ValueError: an array has another shape, or a number that is none."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {"calibrated_success": self.before_lift()}
        for name, array in arrays.items():
            if array.shape != (n_requests, n_models):
                raise ValueError(f"{name} has shape {array.shape}, not {(n_requests, n_models)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a value that is not finite")

    def rows(self, indices: Sequence[int]) -> Estimates:
        """The estimates of some requests, in the given order."""
        chosen = list(indices)
        samples = self.success_samples
        return Estimates(
            **{name: getattr(self, name)[chosen] for name in _ARRAYS},
            success_samples=None if samples is None else samples[:, chosen],
            errors={new: self.errors[old] for new, old in enumerate(chosen) if old in self.errors},
            predicted=self.predicted,
            calibrated_success=self.before_lift()[chosen],
        )


def concatenate(parts: Sequence[Estimates]) -> Estimates:
    """Puts batches one after the other; samples survive only where every part has them."""
    if len(parts) == 1:
        return parts[0]
    errors: dict[int, ApportionError] = {}
    start = 0
    for part in parts:
        errors.update({start + row: error for row, error in part.errors.items()})
        start += len(part.success)
    samples = [part.success_samples for part in parts if part.success_samples is not None]
    same_ensemble = len(samples) == len(parts) and len({len(sample) for sample in samples}) == 1
    return Estimates(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
        success_samples=np.concatenate(samples, axis=1) if same_ensemble else None,
        errors=errors,
        predicted=all(part.predicted for part in parts),
        calibrated_success=np.concatenate([part.before_lift() for part in parts]),
    )


def content_bytes(item: RouteItem) -> int:
    """Size of a request's content in UTF-8: no byte-level tokenizer makes more tokens of it."""
    if isinstance(item.content, str):
        return len(item.content.encode(errors="replace"))
    return len(repr(item.content).encode(errors="replace"))


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
    input_price, output_price = price_arrays(prices)
    asked = np.array([item.max_tokens or np.inf for item in items], dtype=float)
    sequences = np.array([item.sequences for item in items], dtype=float)
    # Templates add a few tokens to a chat; 32 covers the common ones.
    input_tokens = np.repeat(np.array([content_bytes(item) + 32.0 for item in items])[:, None], m, axis=1)
    output_tokens = np.minimum(asked[:, None], typical_tokens[None, :])
    return Estimates(
        success=np.repeat(mean_success[None, :], n, axis=0),
        success_std=np.zeros((n, m)),
        cost_usd=input_tokens * input_price + output_tokens * sequences[:, None] * output_price,
        cost_std_usd=np.zeros((n, m)),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        predicted=False,
    )
