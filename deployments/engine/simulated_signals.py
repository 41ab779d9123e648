"""Simulated confidence of a simulated engine: right or wrong by lot, and signals that tell these apart as is said.

Two normal distributions of equal width stand sqrt(2) times the normal quantile of the AUC apart; each of the four
numbers rises with the same draw, so each alone has that AUC.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist

from apportion.deployments.config.simulated import SimulatedSignals
from apportion.router.signals import Signals


def simulated_confidence(played: SimulatedSignals, model: str, prompt: str) -> tuple[bool, Signals]:
    """Whether the answer is right, and how sure the engine is of it; the same for the same model and prompt."""
    lot = random.Random(f"{model}\0{prompt}")
    right = lot.random() < played.success
    apart = math.sqrt(2) * NormalDist().inv_cdf(played.auc)
    sure = math.exp((lot.gauss() + (apart if right else 0.0)) / 2)
    return right, Signals(-1 / sure, -4 / sure, -3 / sure, sure)
