"""How long each model is expected to take for a request, by how fast it has answered of late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.batch.messages import RouteItem
from apportion.router.drift.lengths import Lengths
from apportion.router.drift.speeds import Speeds
from apportion.router.estimates import Estimates
from apportion.router.unpriced import Unpriced


def timed(
    estimates: Estimates,
    unpriced: Unpriced,
    items: Sequence[RouteItem],
    lengths: Lengths,
    speeds: Speeds,
    running: IntArray | None,
) -> Estimates:
    """The estimates with the seconds from dispatch to the last token; as they are where nobody knows a speed.

    Waiting is not in them: a request is sent when its slot is free.

    Args:
        unpriced: what is expected of the same requests; their answers' lengths are within what these allow.
        running: (M,), sequences on the replica of each model that a request would go to; None: none.
    """
    sequences = np.array([item.sequences for item in items])[:, None]
    least = np.array([item.min_tokens for item in items])[:, None]
    most = np.array([item.max_tokens or np.inf for item in items])[:, None]
    expected = unpriced.layer("answered_tokens") / sequences
    answer = np.minimum(expected * lengths.answers.bounded, np.maximum(most, expected))
    answer = np.maximum(answer, np.minimum(least, expected))
    beside = np.zeros(len(unpriced.models)) if running is None else running
    seconds = speeds.seconds(estimates.expected_input, answer, beside + sequences)
    return estimates if np.isnan(seconds).all() else replace(estimates, seconds=seconds)
