"""cluster.yaml, models.yaml, profiles and plan.json: what they hold, and what is said about mistakes in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES, GpuType
from apportion.allocation.models import ModelDescription, ModelSpec, load_models
from apportion.allocation.plan import Plan, load_plan, save_plan
from apportion.allocation.planner import PlanOptions, make_plan
from apportion.allocation.profile import replica_types
from apportion.allocation.replica import Profile, ReplicaType, load_profiles, save_profiles
from apportion.allocation.serve_file import ServeFile
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice
from tests.allocation.instances import cluster, profile, profiles, specs, workload

CLUSTER = """\
nodes:
  - {name: a, gpu_type: A100-80GB, n_gpus: 8, count: 2}
  - {name: b, gpu_type: mine, n_gpus: 1}
gpu_types:
  mine: {memory_gib: 10, bandwidth_gb_per_s: 100, half_tflops: 5}
"""

MODELS = """\
models:
  - name: one
    source: org/one
    input_usd_per_million: 0.1
    output_usd_per_million: 0.2
  - name: two
    source: org/two
    input_usd_per_million: 1
    output_usd_per_million: 2
    min_replicas: 1
    max_replicas: 3
    gpu_types: [mine]
    quantisation: fp8
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    return file


def test_cluster_expands_equal_nodes_and_extends_the_table(tmp_path: Path) -> None:
    read = Cluster.load(write(tmp_path, CLUSTER))
    assert [node.name for node in read.nodes] == ["a-0", "a-1", "b"]
    assert read.n_gpus == 17
    assert read.gpu_types["mine"] == GpuType("mine", 10, 100, 5)
    assert read.gpu_types["A100-80GB"].memory_gib == pytest.approx(80, abs=2)
    assert set(read.gpu_types) == {"mine", "A100-80GB"}


def test_models_take_their_fields(tmp_path: Path) -> None:
    one, two = load_models(write(tmp_path, MODELS)).specs
    assert one.price == ModelPrice(0.1, 0.2)
    assert (one.min_replicas, one.max_replicas, one.gpu_types, one.quantisation) == (0, None, None, None)
    assert (two.min_replicas, two.max_replicas, two.gpu_types, two.quantisation) == (1, 3, ("mine",), "fp8")


DESCRIPTION = {"name": "m", "source": "org/m", "input_usd_per_million": 1, "output_usd_per_million": 2}


@pytest.mark.parametrize(
    ("fields", "dtype", "quantisation"),
    [
        ({}, "bfloat16", None),
        ({"engine_args": {"dtype": "half", "quantization": "awq_marlin"}}, "float16", "awq"),
        ({"engine_args": {"dtype": "auto", "seed": 3}}, "bfloat16", None),
        ({"dtype": "float32", "engine_args": {"dtype": "float"}}, "float32", None),
        ({"quantisation": "int4", "engine_args": {"quantization": "bitsandbytes"}}, "bfloat16", "int4"),
    ],
)
def test_number_formats_come_from_the_engines_arguments(
    fields: dict[str, object], dtype: str, quantisation: str | None
) -> None:
    spec = ModelDescription.model_validate(DESCRIPTION | fields).spec()
    assert (spec.dtype, spec.quantisation) == (dtype, quantisation)


def test_number_formats_that_differ_or_have_no_known_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype float32 and engine_args.dtype half differ; give one of them"):
        ModelDescription.model_validate(DESCRIPTION | {"dtype": "float32", "engine_args": {"dtype": "half"}})
    file = write(tmp_path, MODELS.replace("quantisation: fp8", "engine_args: {quantization: bitsandbytes}"))
    with pytest.raises(ConfigurationError, match=r"line 13: models.1.engine_args: .*bitsandbytes.*give `quantisation`"):
        load_models(file)


@pytest.mark.parametrize(
    ("load", "text", "old", "new", "message"),
    [
        (Cluster.load, CLUSTER, "n_gpus: 1}", "n_gpus: 0}", "line 3: nodes.1.n_gpus: input should be greater"),
        (Cluster.load, CLUSTER, "gpu_type: mine", "gpu_type: yours", "line 3: nodes.1.gpu_type: 'yours' is unknown"),
        (Cluster.load, CLUSTER, "name: b", "name: a-1", "line 3: nodes.1.name: the node 'a-1' appears twice"),
        (Cluster.load, CLUSTER, "memory_gib", "memory", "line 5: gpu_types.mine.memory: unknown field; remove it"),
        (Cluster.load, CLUSTER, "nodes:\n", "nodes: [\n", "not YAML"),
        (load_models, MODELS, "max_replicas: 3", "max_replicas: 0", "max_replicas 0 is below min_replicas 1"),
        (load_models, MODELS, "name: two", "name: one", "line 6: models.1.name: the model 'one' appears twice"),
        (load_models, MODELS, "quantisation: fp8", "quantisation: fp7", "line 13: models.1.quantisation"),
        (load_models, MODELS, "    source: org/one\n", "", "line 2: models.0.source: missing; add it"),
    ],
)
def test_mistakes_are_named_with_file_and_line(
    tmp_path: Path, load: Callable[[Path], object], text: str, old: str, new: str, message: str
) -> None:
    assert old in text
    file = write(tmp_path, text.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert str(file) in caught.value.message
    assert message in caught.value.message


def test_a_model_names_types_that_exist(tmp_path: Path) -> None:
    file = write(tmp_path, MODELS.replace("[mine]", "[L4, mine]"))
    assert load_models(file, {"mine"}).specs[1].gpu_types == ("L4", "mine")
    with pytest.raises(
        ConfigurationError, match=r"line 12: models\.1\.gpu_types\.1: 'mine' is neither.*use one of.*L4"
    ):
        load_models(file, {"yours"})


@pytest.mark.parametrize("load", [Cluster.load, load_models, load_profiles, load_plan, ServeFile.read])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, load: Callable[[Path], object]) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes("models:\n  - name: größer\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="line 2: not UTF-8") as caught:
        load(file)
    assert str(file) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read"):
        load_models(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["profiles.yaml", "profiles.json"])
def test_profiles_survive_the_file_and_measured_ones_win(tmp_path: Path, name: str) -> None:
    computed = profiles()
    measured = replace(computed[0], source="measured", tokens_per_s=123.0)
    save_profiles(computed, tmp_path / name)
    save_profiles([measured], tmp_path / "measured.json")
    for files in ((name, "measured.json"), ("measured.json", name)):
        read = {p.replica: p for p in load_profiles(*(tmp_path / file for file in files))}
        assert read[measured.replica] == measured
        assert [read[p.replica] for p in computed[1:]] == list(computed[1:])


def test_profiles_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "profiles.json"
    save_profiles(profiles(), file)
    content = json.loads(file.read_text())
    content["profiles"][0] |= {"gpu_fraction": 0.5, "tensor_parallel": 2}
    file.write_text(json.dumps(content, indent=1))
    with pytest.raises(ConfigurationError, match=r"profiles.json, line \d+: profiles.0: .*set gpu_fraction to 1"):
        load_profiles(file)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(cluster(), specs(), profiles(), workload(120), PlanOptions(batch_size=20, n_batches=2)).plan


def test_a_plan_survives_the_file(tmp_path: Path, plan: Plan) -> None:
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version: 99 is not 1"),
        ({"placements": "none"}, "placements"),
        ({"surprise": 1}, "surprise"),
        ({"models": []}, "none of its models"),
        ({"profiles": []}, "without a profile that fits"),
    ],
)
def test_a_spoilt_plan_is_refused(tmp_path: Path, plan: Plan, change: dict[str, object], message: str) -> None:
    file = tmp_path / "plan.json"
    save_plan(plan, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_plan(file)
    assert "plan.json" in caught.value.message


HALF = ReplicaType("small", "gpu", 0.5)
LARGE = ReplicaType("large", "gpu", 1.0, 2)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(HALF, "node-0", (0,))] * 3, "GPU 0 of node-0 is given out 1.5 times"),
        ([(HALF, "node-9", (0,))], "no node 'node-9'"),
        ([(HALF, "node-0", (4,))], "GPU 4 of node-0, which has 4"),
        ([(LARGE, "node-0", (1, 1))], "needs 2 different ones"),
        ([(LARGE, "node-0", (1,))], "needs 2 different ones"),
        ([(LARGE, "node-0", (0, 1)), (HALF, "node-0", (1,))], "GPU 1 of node-0 is given out"),
        ([(ReplicaType("small", "other", 0.5), "node-0", (0,))], "whose GPUs are gpu"),
    ],
)
def test_a_plan_that_does_not_fit_cannot_be_made(
    plan: Plan, places: list[tuple[ReplicaType, str, tuple[int, ...]]], message: str
) -> None:
    from apportion.allocation.plan import PlacedReplica

    with pytest.raises(ConfigurationError, match=message):
        replace(plan, placements=tuple(PlacedReplica(*place) for place in places))


def test_gpu_types_have_to_be_described() -> None:
    with pytest.raises(ConfigurationError, match=r"\['x'\] are not described"):
        Cluster((Node("a", "x", 1),), {})


def test_a_profile_that_fits_delivers_something() -> None:
    with pytest.raises(ConfigurationError, match="all have to be above 0"):
        Profile(HALF, True, 0, 1.0, 1.0, 0.1, 1.0, 1.0, "computed")
    assert profile("small", 0.5, 1, 1, 1.0).fits


def cluster_file(folder: Path, nodes: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(f"nodes:\n  - {nodes}\ngpu_prices:\n  H100: {{own: 2.1}}\n")
    return path


def test_a_node_may_have_gpus_of_several_types(tmp_path: Path) -> None:
    found = Cluster.load(cluster_file(tmp_path, "{name: b, gpus: {H100: 4, L4: 2}, count: 2}"))
    assert [(node.name, node.n_gpus, node.machine, node.first_gpu) for node in found.nodes] == [
        ("b-0:H100", 4, "b-0", 0), ("b-0:L4", 2, "b-0", 4), ("b-1:H100", 4, "b-1", 0), ("b-1:L4", 2, "b-1", 4),
    ]  # fmt: skip
    assert found.mixed == ("b-0", "b-1")
    assert found.together == {"H100": 4, "L4": 2}


def test_slices_of_a_gpu_are_a_type_of_their_own(tmp_path: Path) -> None:
    found = Cluster.load(cluster_file(tmp_path, "{name: c, gpu_type: H100, n_gpus: 8, mig: 1g.10gb, slices: 7}"))
    (node,), (slice_, whole) = found.nodes, (found.gpu_types["H100-MIG-1g.10gb"], GPU_TYPES["H100"])
    assert (node.gpu_type, node.n_gpus, node.price.usd_per_hour) == ("H100-MIG-1g.10gb", 56, pytest.approx(0.3))
    assert slice_.memory_gib == pytest.approx(whole.memory_gib / 8)
    assert slice_.bandwidth_gb_per_s == pytest.approx(whole.bandwidth_gb_per_s / 8)
    assert slice_.half_tflops == pytest.approx(whole.half_tflops / 7)
    assert whole.mig("3g.40gb").memory_gib == pytest.approx(whole.memory_gib / 2)
    assert GPU_TYPES["A100-40GB"].mig("1g.5gb").memory_gib == pytest.approx(5.0)
    assert found.together == {"H100-MIG-1g.10gb": 1}
    assert {r.tensor_parallel for r in replica_types(ModelSpec("m", "x", ModelPrice(1, 1)), found)} == {1}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("{name: b, gpus: {H100: 4}, gpu_type: L4, n_gpus: 1}", "give either gpu_type and n_gpus, or gpus"),
        ("{name: b, gpu_type: L4}", "give either gpu_type and n_gpus, or gpus"),
        ("{name: b, gpus: {H100: 4, none: 1}}", "line 2: nodes.0.gpus: 'none' is unknown"),
        ("{name: b, gpu_type: H100, n_gpus: 1, mig: big, slices: 2}", "'big' is no MIG profile; give one as 1g.10gb"),
        ("{name: b, gpu_type: L4, n_gpus: 1, mig: 7g.80gb, slices: 1}", "'7g.80gb' is more than a L4 has"),
        ("{name: b, gpu_type: H100, n_gpus: 1, slices: 2}", "name their profile with mig"),
        ("{name: b, gpus: {H100: 1, L4: 1}, mig: 1g.10gb}", "a node with GPUs of several types is not cut"),
    ],
)
def test_nodes_that_do_not_go_together_are_named(tmp_path: Path, nodes: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Cluster.load(cluster_file(tmp_path, nodes))
