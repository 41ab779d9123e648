"""Expected costs that go by how long answers have turned out to be, and prompts that are counted as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import Policy, longest_answers
from apportion.router.drift.lengths import Lengths
from apportion.router.estimates import Estimates


def corrected(estimates: Estimates, items: Sequence[RouteItem], policy: Policy, lengths: Lengths) -> Estimates:
    """The estimates with costs of answers and prompts as long as each model's last ones were of what was expected.

    Args:
        lengths: what is known of that.
    """
    read = lengths.prompts.bounded
    ratios = lengths.answers.bounded if policy.correct_costs else np.ones_like(read)
    if (ratios == 1.0).all() and (read == 1.0).all():
        return estimates
    sequences = np.array([item.sequences for item in items], dtype=np.float64)[:, None]
    most = longest_answers([item.max_tokens for item in items], policy.models) * sequences
    least = np.array([item.min_tokens for item in items], dtype=np.float64)[:, None] * sequences
    return estimates.corrected(policy.prices, ratios, most, read, least)
