"""From plan to configuration: golden, idempotent, checked together, and nothing else in the file moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import CPU, GPU_TYPES
from apportion.allocation.models import ModelSpec, Quota
from apportion.allocation.plan import ReplicaBounds
from apportion.allocation.planner import PlanOptions, make_plan
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.render import RenderOptions, render
from apportion.allocation.replica import ReplicaType
from apportion.allocation.serve_file import Rewriting, ServeFile
from apportion.allocation.settings import check_settings, replica_settings
from apportion.deployments.cluster.fitting import check_fits
from apportion.deployments.cluster.nodes import LiveNode
from apportion.deployments.config.service import ServiceConfig, parse_config
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice
from tests.allocation import instances
from tests.allocation.plans import HUGE, MIDDLE, PLACES, SMALL_HALF, SMALL_THIRD, plan_of, profile
from tests.paths import ROOT

GOLDEN = Path(__file__).parent / "golden"


def parsed(text: str) -> ServiceConfig:
    return parse_config(yaml.safe_load(text)["applications"][0]["args"])


def test_the_rendered_file_is_the_golden_one() -> None:
    assert render(plan_of(), GOLDEN / "before.yaml", RenderOptions()) == (GOLDEN / "after.yaml").read_text()


def test_rendering_twice_changes_nothing() -> None:
    after = GOLDEN / "after.yaml"
    assert render(plan_of(), after, RenderOptions()) == after.read_text()


def test_a_model_from_outside_stays_as_it_is_written(tmp_path: Path) -> None:
    bought = ModelSpec("gpt-4o-mini", "", ModelPrice(0.15, 0.6, 0.075), quota=Quota(64, 500, 200_000))
    plan = plan_of(models=(*plan_of().models, bought))
    file = tmp_path / "serve_config.yaml"
    file.write_text((ROOT / "serve_config.gpu.yaml").read_text())
    before = yaml.safe_load(file.read_text())["applications"][0]["args"]["models"][-1]
    models = yaml.safe_load(render(plan, file, RenderOptions()))["applications"][0]["args"]["models"]
    assert before in models
    assert parsed(render(plan, file, RenderOptions())).models[3].spec() == replace(bought, max_model_len=128_000)
    with pytest.raises(ConfigurationError, match="does not know where it answers"):
        render(plan, GOLDEN / "before.yaml", RenderOptions())


def test_gpus_of_a_mixed_node_have_the_machines_numbers_and_slices_none(tmp_path: Path) -> None:
    """Ray hands out slices by itself; a node's second type begins behind the first."""
    sliced = GPU_TYPES["H100"].mig("3g.40gb")
    small, middle = replace(SMALL_THIRD, gpu_type="L4"), replace(MIDDLE, gpu_type=sliced.name)
    nodes = (
        Node("b:H100", "H100", 4, host="b"), Node("b:L4", "L4", 2, host="b", first_gpu=4), Node("c", sliced.name, 2),
    )  # fmt: skip
    cluster = Cluster(nodes, {**GPU_TYPES, sliced.name: sliced})
    places = ((HUGE, "b:H100", (0, 1, 2, 3)), (small, "b:L4", (1,)), (middle, "c", (0,)), (middle, "c", (1,)))
    known = (profile(HUGE, 136.0, 140.0), profile(small, 3.0, 1.0), profile(middle, 9.0, 5.0))
    plan = plan_of(places, known, cluster=cluster)
    service = parsed(render(plan, GOLDEN / "before.yaml", RenderOptions()))
    groups = {model.name: [(g.node, g.gpus, g.num_replicas) for g in model.groups] for model in service.models}
    assert groups["huge"] == [("b", (0, 1, 2, 3), 1)]
    assert groups["small"] == [("b", (5,), 1)]
    assert groups["middle"] == [("c", None, 2)]
    check_fits(service, [LiveNode("b", "b", {}, 6, 64), LiveNode("c", "c", {}, 2, 64)])
    with pytest.raises(ConfigurationError, match="b have GPUs of several types, which Ray cannot tell apart"):
        render(plan, GOLDEN / "before.yaml", RenderOptions(pin=False))
    work, safe = instances.workload(), Requirements(high_availability=True)
    with pytest.raises(ConfigurationError, match="high_availability: b have GPUs of several types"):
        AllocationProblem.of(cluster, instances.specs(), [], work, work.batches(4, 1), safe)


def test_another_plan_goes_into_the_same_file_and_back(tmp_path: Path) -> None:
    file = tmp_path / "serve_config.yaml"
    file.write_text(render(plan_of(PLACES[:1]), GOLDEN / "after.yaml", RenderOptions()))
    assert len(parsed(file.read_text()).models[0].groups) == 1
    assert render(plan_of(), file, RenderOptions()) == (GOLDEN / "after.yaml").read_text()


@pytest.mark.parametrize("name", ["serve_config.yaml", "serve_config.gpu.yaml"])
def test_reading_and_writing_moves_nothing(name: str) -> None:
    assert Rewriting(ServeFile.read(ROOT / name)).text() == (ROOT / name).read_text()


def test_the_service_takes_what_is_rendered_and_runs_what_is_planned() -> None:
    config = parsed(render(plan_of(), GOLDEN / "before.yaml", RenderOptions()))
    placed = [
        (model.name, group.node, group.gpus, group.num_gpus)
        for model in config.models
        for group in model.groups
        for _ in range(group.num_replicas)
    ]
    assert sorted(placed) == sorted((r.model, node, gpus, r.gpus) for r, node, gpus in PLACES)
    for model in config.models:
        for group in model.groups:
            deployed = model.of_group(group)
            assert deployed.engine_args["gpu_memory_utilization"] <= group.num_gpus
            assert deployed.engine_args["dtype"] == "bfloat16"


def test_a_model_without_a_replica_stays_known() -> None:
    config = parsed(render(plan_of(), GOLDEN / "before.yaml", RenderOptions()))
    assert {model.name: model.groups for model in config.models}["large"] == ()


def test_what_the_plan_decides_is_not_inherited_from_the_model(tmp_path: Path) -> None:
    indent = "\n            "
    text = (GOLDEN / "before.yaml").read_text()
    text = text.replace("engine_args: &sampling # shared by all", f"engine_args: &sampling{indent}quantization: awq")
    text = text.replace("gpu_memory_utilization: 0.9", f"tensor_parallel_size: 4{indent}<<: *sampling")
    config = tmp_path / "serve_config.yaml"
    config.write_text(text)
    large = ReplicaType("large", "H100", 1.0)
    plan = plan_of(
        ((large, "a-0", (0,)), (SMALL_THIRD, "a-1", (0,))),
        (profile(large, 40.0, 20.0), profile(SMALL_THIRD, 3.0, 16.0)),
    )
    text = render(plan, config, RenderOptions())
    config.write_text(text)
    assert render(plan, config, RenderOptions()) == text
    by_name = {model.name: model for model in parsed(text).models}
    for name, kept in (("large", "enable_prefix_caching"), ("small", "override_generation_config")):
        (group,) = by_name[name].groups
        arguments = by_name[name].of_group(group).engine_args
        assert "tensor_parallel_size" not in arguments
        assert "quantization" not in arguments
        assert kept in arguments


def test_a_model_on_several_gpus_may_be_planned_on_one(tmp_path: Path) -> None:
    one = ReplicaType("qwen2.5-72b", "B200", 1.0)
    spec = ModelSpec(one.model, "Qwen/Qwen2.5-72B-Instruct", ModelPrice(0.4, 0.8), max_model_len=16384)
    plan = plan_of(
        ((one, "b", (0,)),),
        (profile(one, 136.0, 20.0),),
        models=(spec,),
        cluster=Cluster((Node("b", "B200", 1),), GPU_TYPES),
    )
    config = parsed(render(plan, ROOT / "serve_config.gpu.yaml", RenderOptions()))
    large = next(model for model in config.models if model.name == one.model)
    assert [group.num_gpus for group in large.groups] == [1]


def test_all_parts_of_a_price_are_rendered() -> None:
    one = ReplicaType("qwen2.5-72b", "B200", 1.0)
    spec = ModelSpec(one.model, "Qwen/Qwen2.5-72B-Instruct", ModelPrice(0.4, 0.8, 0.1), max_model_len=16384)
    cluster = Cluster((Node("b", "B200", 1),), GPU_TYPES)
    plan = plan_of(((one, "b", (0,)),), (profile(one, 136.0, 20.0),), models=(spec,), cluster=cluster)
    config = parsed(render(plan, ROOT / "serve_config.gpu.yaml", RenderOptions()))
    assert next(model for model in config.models if model.name == one.model).spec().price == spec.price


def test_without_pins_ray_chooses() -> None:
    config = parsed(render(plan_of(), GOLDEN / "before.yaml", RenderOptions(pin=False, num_cpus=2)))
    small = config.models[0].groups
    assert [(g.name, g.node, g.gpus, g.num_replicas, g.num_cpus) for g in small] == [
        ("H100-0.3", None, None, 4, 2),
        ("H100-0.5", None, None, 1, 2),
    ]


def test_autoscaling_runs_between_the_bounds_and_pins_nothing() -> None:
    bounds = (ReplicaBounds(SMALL_THIRD, 2, 6), ReplicaBounds(HUGE, 0, 1), ReplicaBounds(MIDDLE, 0, 0))
    config = parsed(render(plan_of(bounds=bounds), GOLDEN / "before.yaml", RenderOptions(autoscale=True)))
    groups = {(m.name, g.name): (g.node, g.min_replicas, g.num_replicas) for m in config.models for g in m.groups}
    assert groups == {("small", "H100-0.3"): (None, 2, 6), ("huge", "H100-x4"): (None, 1, 1)}


def test_only_models_of_one_type_may_sleep() -> None:
    alone, second = ReplicaBounds(HUGE, 0, 1), replace(SMALL_THIRD, gpu_fraction=0.5)
    bounds = (ReplicaBounds(SMALL_THIRD, 0, 6), ReplicaBounds(second, 0, 1), alone)
    third = next(profile for profile in plan_of().profiles if profile.replica == SMALL_THIRD)
    plan = plan_of(bounds=bounds, profiles=(*plan_of().profiles, replace(third, replica=second)))
    options = RenderOptions(autoscale=True, scale_to_zero=True)
    config = parsed(render(plan, GOLDEN / "before.yaml", options))
    least = {model.name: {group.min_replicas for group in model.groups} for model in config.models if model.groups}
    assert least == {"small": {1}, "huge": {0}}
    assert [model.name for model in config.models if model.may_sleep] == ["huge"]


@pytest.mark.parametrize(("low", "rate", "high"), [(2.0, 20.0, 60.0), (4.0, 40.0, 60.0), (1.0, 10.0, 30.0)])
def test_the_service_accepts_what_autoscaling_is_planned(low: float, rate: float, high: float) -> None:
    options = PlanOptions(batch_size=40, n_batches=4, low_rate_per_s=low, high_rate_per_s=high)
    plan = make_plan(
        instances.cluster(), instances.specs(), instances.profiles(), instances.workload(rate_per_s=rate), options
    ).plan
    config = parsed(render(plan, GOLDEN / "before.yaml", RenderOptions(autoscale=True)))
    nodes = [LiveNode(node.name, node.name, {}, node.n_gpus, 64) for node in plan.cluster.nodes]
    check_fits(config, nodes)
    assert sum(g.num_replicas * g.num_gpus for m in config.models for g in m.groups) > 0


def test_autoscaling_needs_bounds() -> None:
    with pytest.raises(ConfigurationError, match="plan with a low and a high rate"):
        render(plan_of(), GOLDEN / "before.yaml", RenderOptions(autoscale=True))


@pytest.mark.parametrize("options", [RenderOptions(pin=False), RenderOptions(autoscale=True)])
def test_where_gpus_differ_replicas_that_are_not_pinned_name_their_type(options: RenderOptions) -> None:
    mixed = Cluster((Node("a-0", "H100", 8), Node("a-1", "H100", 8), Node("b", "L4", 1)), GPU_TYPES)
    plan = plan_of(cluster=mixed, bounds=(ReplicaBounds(HUGE, 1, 1),))
    config = parsed(render(plan, GOLDEN / "before.yaml", options))
    groups = [group for model in config.models for group in model.groups]
    assert {group.gpu_type for group in groups} == {"H100"}
    labelled = [LiveNode(n.name, n.name, {"apportion-gpu-type": n.gpu_type}, n.n_gpus, 64) for n in mixed.nodes]
    check_fits(config, labelled)
    with pytest.raises(ConfigurationError, match=r"no node has GPUs of type H100; .*--labels apportion-gpu-type=H100"):
        check_fits(config, labelled[2:])


def test_cores_are_asked_for_where_there_is_no_gpu(tmp_path: Path) -> None:
    replica = ReplicaType("small", CPU, 0.5)
    cluster = Cluster.load(ROOT / "benchmarks" / "zoo" / "cluster" / "cluster.yaml")
    node = cluster.nodes[0].name
    plan = plan_of(((replica, node, (0,)), (replica, node, (1,))), (profile(replica, 0.01, 0.0625),), cluster=cluster)
    (group,) = parsed(render(plan, GOLDEN / "before.yaml", RenderOptions())).models[0].groups
    assert (group.node, group.gpus, group.num_replicas, group.num_gpus, group.num_cpus) == (node, None, 2, 0, 0.5)
    assert group.engine_args["kv_cache_memory_bytes"] == 64 << 20


def test_a_quantisation_that_is_done_while_loading_is_asked_for() -> None:
    plan = plan_of()
    settings = replica_settings(plan.models[1], MIDDLE, GPU_TYPES["H100"], max_num_seqs=8, kv_cache_gib=4.0, num_cpus=1)
    assert settings["engine_args"]["quantization"] == "fp8"


@pytest.mark.parametrize(
    ("replica", "change", "says"),
    [
        (SMALL_HALF, {"gpu_memory_utilization": 0.6}, "gpu_memory_utilization 0.6"),
        (SMALL_HALF, {"num_gpus": 0.4}, "num_gpus 0.4"),
        (HUGE, {"placement_group_bundles": [{"GPU": 2, "CPU": 1}]}, "the bundle's GPU 2"),
        (SMALL_HALF, {"kv_cache_memory_bytes": 60 << 30}, "63.7 GiB.*allows 36.6"),
        (SMALL_HALF, {"max_num_seqs": 33}, "max_num_seqs 33 needs 30.94 GiB"),
        (HUGE, {"kv_cache_memory_bytes": 17 << 30}, "max_num_seqs 32 needs 140.00 GiB.*gives 68"),
        (SMALL_HALF, {"max_num_batched_tokens": 16}, "max_num_seqs 32 is above max_num_batched_tokens 16"),
    ],
)
def test_settings_that_disagree_are_refused(replica: ReplicaType, change: dict[str, object], says: str) -> None:
    plan = plan_of()
    spec = next(model for model in plan.models if model.name == replica.model)
    found = plan.profile(replica)
    settings = replica_settings(
        spec, replica, GPU_TYPES["H100"], max_num_seqs=32, kv_cache_gib=found.kv_cache_gib, num_cpus=1
    )
    check_settings(found, plan.cluster.gpu_types["H100"], settings)
    for name, value in change.items():
        (settings if name in settings or name == "num_gpus" else settings["engine_args"])[name] = value
    with pytest.raises(ConfigurationError, match=says):
        check_settings(found, plan.cluster.gpu_types["H100"], settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "line 1: not YAML"),
        ("applications: []", "exactly one application"),
        ("applications:\n  - name: x\n", "line 2: applications.0: the application has no `args`"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as caught:
        render(plan_of(), file, RenderOptions())
    assert str(file) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml.*serve_config\.gpu\.yaml is one to start from"):
        render(plan_of(), tmp_path / "none.yaml", RenderOptions())


def test_nodes_are_told_apart_by_name() -> None:
    one = Cluster((Node("10.0.0.7", "H100", 8),), plan_of().cluster.gpu_types)
    plan = plan_of(((SMALL_THIRD, "10.0.0.7", (2,)),), cluster=one)
    group = parsed(render(plan, GOLDEN / "before.yaml", RenderOptions())).models[0].groups[0]
    assert (group.name, group.node) == ("10.0.0.7-gpu2", "10.0.0.7")
