"""An artefact whose calibration rows have proved a cascade, by played signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apportion.deployments.config.models import resolve_source
from apportion.deployments.config.simulated import SimulatedSignals
from apportion.deployments.engine.simulated_signals import simulated_confidence
from apportion.router.cascade.gate import Gate, Trial
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.posterior import Posterior
from apportion.router.prediction.artefact import read_artefact, write_artefact
from apportion.router.prediction.cascading import cascades_arrays, cascades_record

PLAYED = SimulatedSignals(auc=0.97)


def proved(folder: Path) -> None:
    """The zoo's artefact, with a pair that simulated signals of this strength teach."""
    rng = np.random.default_rng(0)
    drawn = [simulated_confidence(PLAYED, "wren", str(row)) for row in range(2_000)]
    right, signals = np.array([one for one, _ in drawn], dtype=float), np.array([one for _, one in drawn])
    posterior = Posterior.fit(np.full(2_000, 0.5), signals, right)
    scores = np.column_stack([right, rng.random(2_000) < 0.8]).astype(float)
    pair = Pair.fit("wren", "heron", posterior, np.full(2_000, 0.8), scores)
    description, arrays = read_artefact(Path(resolve_source("zoo:predictor")))
    record = cascades_record(Gate((pair,), (Trial("wren", "heron", 0.02, 0.01, 500),)))
    write_artefact(folder, description.model_copy(update={"cascades": record}), arrays | cascades_arrays([pair]))
