"""Expected costs that go by how long answers have turned out to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import Policy
from apportion.router.drift.lengths import Ratios
from apportion.router.estimates import Estimates


def corrected(estimates: Estimates, items: Sequence[RouteItem], policy: Policy, lengths: Ratios) -> Estimates:
    """The estimates with costs of answers as long as each model's last ones were of what was expected.

    Args:
        lengths: what is known of that.
    """
    ratios = lengths.bounded
    if not policy.correct_costs or (ratios == 1.0).all():
        return estimates
    most = np.array([(item.max_tokens or np.inf) * item.sequences for item in items], dtype=np.float64)
    return estimates.corrected(policy.prices, ratios, most)
