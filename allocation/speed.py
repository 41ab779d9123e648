"""How long a step of an engine takes, from its profile: what slots, latency and the simulator have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apportion.allocation.replica import Profile
from apportion.router.arrays import FloatArray


def step_curve(profile: Profile) -> tuple[FloatArray, FloatArray]:
    """Sequences running and seconds a step, to interpolate; without a curve a step always takes what a full one does,
    which is right where reading weights dominates.
    """
    curve = profile.decode_curve or ((profile.max_num_seqs, profile.tokens_per_s),)
    sequences = np.array([sequences for sequences, _ in curve], dtype=np.float64)
    return sequences, sequences / np.array([speed for _, speed in curve], dtype=np.float64)


def cut(profile: Profile, sequences: int) -> Profile:
    """The profile of a replica that runs so many sequences, or as many as its speed is known for."""
    if not profile.decode_curve:
        return profile
    known, steps_s = step_curve(profile)
    most = min(sequences, profile.decode_curve[-1][0])
    tokens_per_s = float(most / np.interp(most, known, steps_s))
    curve = tuple(point for point in profile.decode_curve if point[0] < most)
    return replace(profile, max_num_seqs=most, tokens_per_s=tokens_per_s, decode_curve=(*curve, (most, tokens_per_s)))
