from __future__ import annotations

import pytest

from benchmarks.allocation.scale import GAP, instance, measure


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_large_cluster_is_planned_within_a_percent_in_a_minute_of_one_core() -> None:
    problem = instance(8, 20_000.0, False)
    assert (problem.cluster.n_gpus, problem.n_models, problem.n_requests, problem.n_batches) == (256, 20, 2000, 20)
    assert len({(r.gpu_type, r.gpu_fraction) for r in problem.replicas}) == 24
    timing = measure(8, 20_000.0, False, time_limit_s=800)
    assert timing.gap <= GAP
    assert timing.cpu_s < 60
