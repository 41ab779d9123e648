"""A rendered plan on a Ray of two nodes with four logical GPUs each: everything lands where the plan says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tests.deployments.conftest import free_port
from tests.deployments.logical_cluster import PLACES
from tests.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plan")
    command = [sys.executable, "-m", "tests.deployments.logical_cluster", str(folder), str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_every_replica_lands_where_the_plan_says(deployed: dict[str, Any]) -> None:
    planned = Counter((model, node, ",".join(map(str, gpus))) for model, _, _, node, gpus in PLACES)
    found = Counter((r["deployment"].split("-")[1], r["node"], r["gpus"]) for r in deployed["replicas"])
    assert found == planned


def test_no_gpu_is_given_out_more_than_once(deployed: dict[str, Any]) -> None:
    share = {(model, node, ",".join(map(str, gpus))): min(share, 1.0) for model, share, _, node, gpus in PLACES}
    used: Counter[tuple[str, str]] = Counter()
    for replica in deployed["replicas"]:
        for gpu in replica["gpus"].split(","):
            used[replica["node"], gpu] += share[replica["deployment"].split("-")[1], replica["node"], replica["gpus"]]
    assert len(used) == 8
    assert max(used.values()) <= 1 + 1e-9


def test_several_groups_answer_as_one_model_with_all_their_slots(deployed: dict[str, Any]) -> None:
    status, slots = deployed["answer"]
    assert status == 200
    assert slots == {model: 8 * sum(place[0] == model for place in PLACES) for model in slots}


def test_a_plan_that_does_not_fit_is_refused_before_anything_starts(deployed: dict[str, Any]) -> None:
    missing, full = deployed["refusals"]
    assert "no node 'c'" in missing
    assert "GPU 0 of node b is given out 1.3 times" in full
    assert deployed["started_before"] == 0


def test_the_cluster_is_read_from_ray(deployed: dict[str, Any]) -> None:
    assert deployed["cluster"] == [["a", "L4", 4], ["b", "L4", 4]]
