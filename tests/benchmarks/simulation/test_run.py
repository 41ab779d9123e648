"""The simulated half of the experiment, on the committed profiles."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.allocation.gpus import CPU
from apportion.allocation.models import load_models
from apportion.allocation.replica import ReplicaType, load_profiles
from apportion.deployments import zoo
from benchmarks.simulation.engines import Load
from benchmarks.simulation.run import ZOO, plan_of, simulated_run
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_committed_profiles_are_measured_and_complete() -> None:
    found = {profile.replica: profile for profile in load_profiles(zoo.PROFILES)}
    for spec in load_models(ZOO / "cluster" / "models.yaml").specs:
        for share in (0.25, 0.5, 1.0):
            profile = found[ReplicaType(spec.name, CPU, share)]
            assert (profile.source, profile.fits) == ("measured", True)
            assert [n for n, _ in profile.decode_curve] == [1, 2, 4, 8, 16, 32, 64]


def test_a_full_engine_gives_what_its_profile_says() -> None:
    spec = next(spec for spec in load_models(ZOO / "cluster" / "models.yaml").specs if spec.name == "heron")
    core = next(p for p in load_profiles(zoo.PROFILES) if p.replica == ReplicaType("heron", CPU, 1.0))
    n, window_s = 3000, 20.0
    load = Load("x", np.ones(n, int), np.full(n, 64), core.max_num_seqs)
    run = simulated_run(plan_of(spec, core, 0.5), load, window_s)
    assert run.output_tokens.sum() / window_s == pytest.approx(0.5 * core.tokens_per_s, rel=0.15)
    assert run.end_s.max() <= window_s
