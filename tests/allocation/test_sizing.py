"""Slots from the lengths of a workload: as many as the cache carries, far more than whole contexts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.profile import Typical, compute_profiles
from apportion.allocation.replica import Profile
from apportion.allocation.sizing import sized
from apportion.allocation.speed import step_curve
from apportion.allocation.workload import Workload
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice
from tests.allocation.architectures import GEMMA3_1B, LLAMA31_8B, model_folder


def workload(inputs: float, outputs: np.ndarray, **changes: object) -> Workload:
    n = len(outputs)
    column = np.ones((n, 1))
    return Workload(("m",), Estimates(0.5 * column, column, inputs * column, outputs[:, None], **changes), 1.0)


def long_context(folder: Path, config: dict, max_model_len: int, share: float = 1.0) -> tuple[ModelSpec, Profile]:
    model = ModelSpec("m", model_folder(folder, config), ModelPrice(1, 1), max_model_len=max_model_len)
    profile = compute_profiles([model], Cluster((Node("a", "H100", 1),), GPU_TYPES), Typical(), shares=[share])[0]
    return model, profile


def test_a_long_context_that_nobody_uses_takes_no_slots(tmp_path: Path) -> None:
    short, (long, profile) = long_context(tmp_path, LLAMA31_8B, 8192), long_context(tmp_path, LLAMA31_8B, 131072)
    work = workload(512.0, np.full(100, 256.0))
    (few,) = sized([profile], [long], work, cache_safety=1)
    (many,) = sized([profile], [long], work, cache_safety=0.99)
    (same,) = sized([short[1]], [short[0]], work, cache_safety=0.99)
    assert (few.max_num_seqs, many.max_num_seqs, same.max_num_seqs) == (3, 256, 256)
    assert many.tokens_per_s > 10 * few.tokens_per_s
    sequences, steps_s = step_curve(few)
    assert few.tokens_per_s == pytest.approx(3 / np.interp(3, sequences, steps_s))
    assert few.decode_curve[-1] == (3, few.tokens_per_s)


@pytest.mark.parametrize("config", [LLAMA31_8B, GEMMA3_1B])
@pytest.mark.parametrize("safety", [0.9, 0.99])
def test_a_full_replica_runs_out_of_cache_as_seldom_as_wanted(tmp_path: Path, config: dict, safety: float) -> None:
    """Sequences drawn one by one, as they would be met at a random moment, against the cache of a small share."""
    model, profile = long_context(tmp_path, config, 32768, 0.35 if config is LLAMA31_8B else 0.075)
    rng = np.random.default_rng(0)
    outputs = rng.lognormal(6.0, 1.0, 3000)
    (found,) = sized([profile], [model], workload(2000.0, outputs), safety)
    assert 8 < found.max_num_seqs < 256
    tokens, gib = np.array(profile.sequence_gib).T
    drawn = rng.choice(outputs, (4000, found.max_num_seqs), p=outputs / outputs.sum())
    held = np.interp(2000 + drawn * rng.uniform(0, 1, drawn.shape), tokens, gib).sum(axis=1)
    short_of = (held > profile.kv_cache_gib).mean()
    assert 0.1 * (1 - safety) < short_of < 1.5 * (1 - safety)


def test_answers_that_may_be_longer_than_expected_take_more_room(tmp_path: Path) -> None:
    model, profile = long_context(tmp_path, LLAMA31_8B, 32768, 0.35)
    outputs = np.full(200, 1500.0)
    known = workload(100.0, outputs)
    spread = workload(100.0, outputs, cost_std_usd=np.full((200, 1), 1000.0 * 1e-6))
    (sure,), (unsure,) = (sized([profile], [model], work, 0.99) for work in (known, spread))
    assert unsure.max_num_seqs < 0.85 * sure.max_num_seqs


def test_what_says_nothing_of_its_cache_stays_as_it_is(tmp_path: Path) -> None:
    model, profile = long_context(tmp_path, LLAMA31_8B, 8192)
    silent = replace(profile, sequence_gib=(), max_num_seqs=7)
    assert sized([silent], [model], workload(10.0, np.full(20, 10.0)), 0.99) == (silent,)
