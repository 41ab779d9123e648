"""Where replicas go: pins, order, and what a cluster has room for."""

from __future__ import annotations

from typing import Any

import pytest

from apportion.deployments.app import engine_name
from apportion.deployments.cluster.fitting import check_deploy, check_fits
from apportion.deployments.cluster.live import cluster_of
from apportion.deployments.cluster.nodes import LiveNode
from apportion.deployments.cluster.pinning import deployment_options, gpu_environment, in_order
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.replica_groups import ReplicaGroup
from apportion.deployments.config.service import ServiceConfig, parse_config
from apportion.router.errors import ConfigurationError

MODEL = {
    "name": "org/small",
    "source": "org/small",
    "input_usd_per_million": 1,
    "output_usd_per_million": 2,
    "max_model_len": 100,
}


def group(name: str, **fields: Any) -> dict[str, Any]:
    share = fields.get("num_gpus", 0)
    bounds = {"gpu_memory_utilization": share, "kv_cache_memory_bytes": 1 << 30} if 0 < share < 1 else {}
    return {"name": name, "engine_args": bounds, "num_cpus": 0, **fields}


def service(*groups: dict[str, Any], **sections: Any) -> ServiceConfig:
    models = [MODEL | {"replica_groups": list(groups)}]
    return parse_config({"models": models, "predictor": {"artefact": "x", "num_cpus": 0}, **sections})


def node(name: str, gpus: int = 2, cpus: float = 16, **labels: str) -> LiveNode:
    return LiveNode(id=name, address="10.0.0.1", labels={"apportion-node": name} | labels, gpus=gpus, cpus=cpus)


def test_a_label_or_an_address_pins_an_actor() -> None:
    labelled = deployment_options(ReplicaGroup(name="g", node="a-0", num_gpus=1), {})
    assert labelled["ray_actor_options"]["label_selector"] == {"apportion-node": "a-0"}
    addressed = deployment_options(ReplicaGroup(name="g", node="10.0.0.7", num_gpus=1), {})
    assert addressed["ray_actor_options"]["resources"] == {"node:10.0.0.7": 0.001}
    anywhere = deployment_options(ReplicaGroup(name="g", num_gpus=1), {"env_vars": {}})
    assert anywhere == {"ray_actor_options": {"num_gpus": 1, "num_cpus": 1, "runtime_env": {"env_vars": {}}}}


def test_a_type_of_gpu_is_asked_for_by_its_label() -> None:
    one = deployment_options(ReplicaGroup(name="g", gpu_type="L4", num_gpus=1), {})
    assert one["ray_actor_options"]["label_selector"] == {"apportion-gpu-type": "L4"}
    several = ReplicaGroup(name="g", gpu_type="L4", num_gpus=2, placement_group_bundles=({"GPU": 2, "CPU": 1},))
    options = deployment_options(several, {})
    assert options["placement_group_bundle_label_selector"] == [{"apportion-gpu-type": "L4"}]
    with pytest.raises(ValueError, match="a node is named"):
        ReplicaGroup(name="g", gpu_type="L4", num_gpus=1, node="a")


@pytest.mark.parametrize(
    ("place", "bundle", "selector"),
    [
        ("a-0", {"GPU": 4, "CPU": 1}, [{"apportion-node": "a-0"}]),
        ("10.0.0.7", {"GPU": 4, "CPU": 1, "node:10.0.0.7": 0.001}, None),
    ],
)
def test_a_placement_group_is_one_node_and_is_pinned_as_a_whole(
    place: str, bundle: dict[str, float], selector: Any
) -> None:
    several = ReplicaGroup(name="g", node=place, num_gpus=4, placement_group_bundles=({"GPU": 4, "CPU": 1},))
    options = deployment_options(several, {})
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert options["placement_group_bundles"] == [bundle]
    assert options.get("placement_group_bundle_label_selector") == selector
    assert "label_selector" not in options["ray_actor_options"]


def test_replicas_start_gpu_by_gpu() -> None:
    config = service(
        group("d", node="b", gpus=[0], num_gpus=1),
        group("c", node="a", gpus=[1], num_gpus=0.5),
        group("b", node="a", gpus=[0], num_gpus=0.4),
        group("a", node="a", gpus=[0], num_gpus=0.6),
    )
    assert [found.name for _, found in in_order(config.models)] == ["a", "b", "c", "d"]


def test_the_plans_gpus_are_the_ones_that_are_seen() -> None:
    seen = gpu_environment(ReplicaGroup(name="g", node="a", gpus=(2, 3), num_gpus=2))
    assert seen["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert gpu_environment(ReplicaGroup(name="g", num_gpus=0.5)) == {}


def test_a_deployment_is_named_after_model_and_group() -> None:
    model = service(group("a-0-gpu1")).models[0]
    assert engine_name(model, model.groups[0]) == "Engine-org--small-a-0-gpu1"
    plain = ModelConfig(**MODEL)
    assert engine_name(plain, plain.groups[0]) == "Engine-org--small"


def test_what_fits_passes() -> None:
    config = service(
        group("a", node="a", gpus=[0], num_gpus=0.5, num_replicas=2),
        group("b", node="a", gpus=[1], num_gpus=0.7),
        group("c", node="b", num_gpus=2),
        group("d", num_gpus=0.3),
        predictor={"artefact": "x", "num_cpus": 1},
    )
    check_fits(config, [node("a"), node("b")])


def test_models_that_sleep_take_turns_on_a_gpu() -> None:
    def sleeping(name: str, gpus: float) -> dict[str, Any]:
        return MODEL | {"name": name, "replica_groups": [group("g", num_gpus=gpus, num_replicas=2, min_replicas=0)]}

    def fits(*models: dict[str, Any]) -> None:
        check_fits(parse_config({"models": models, "predictor": {"artefact": "x", "num_cpus": 0}}), [node("a")])

    always = MODEL | {"replica_groups": [group("g", num_gpus=1)]}
    fits(always, sleeping("night", 1), sleeping("owl", 1))
    with pytest.raises(ConfigurationError, match="3 GPUs are asked for there, it has 2"):
        fits(always, sleeping("night", 1), sleeping("owl", 2))


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([group("g", node="c")], "no node 'c'.*which has a, b.*--labels apportion-node=c"),
        ([group("g", node="a", gpus=[2], num_gpus=1)], "asks for GPU 2 of node a, which has 2"),
        ([group("g", node="a", gpus=[0], num_gpus=0.4, num_replicas=3)], "GPU 0 of node a is given out 1.2 times"),
        ([group("g", node="a", num_gpus=0.6, num_replicas=3)], "finds no room on node a"),
        (
            [group("g", num_gpus=0.6, num_replicas=5)],
            "finds no room on the cluster: 3 GPUs are asked for there, it has 4",
        ),
        ([group("g", num_gpus=4)], r"a replica of org/small \(group g\) with num_gpus 4"),
        ([group("g", num_gpus=1, gpu_type="T4")], "no node has GPUs of type T4; start one with"),
        ([group("g", num_gpus=1, gpu_type="L4", num_replicas=3)], "3 GPUs of type L4 are asked for there, it has 2"),
        ([group("g", node="a", num_cpus=17)], "node a has 16 CPUs and 17 are asked for"),
        ([group("g", num_cpus=33)], "the cluster has 32 CPUs"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mend(groups: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_fits(service(*groups), [node("a", **{"apportion-gpu-type": "L4"}), node("b")])


def test_every_replica_of_the_predictor_needs_its_share() -> None:
    predictor = {"artefact": "x", "num_cpus": 1, "num_gpus": 0.6, "num_replicas": 4}
    check_fits(service(group("g"), predictor=predictor), [node("a"), node("b")])
    with pytest.raises(ConfigurationError, match=r"Predictor.*predictor.num_gpus: 0"):
        check_fits(service(group("g"), predictor=predictor | {"num_replicas": 5}), [node("a"), node("b")])
    with pytest.raises(ConfigurationError, match="the cluster has 4 CPUs and 5"):
        check_fits(service(group("g"), predictor=predictor), [node("a", cpus=2), node("b", cpus=2)])


def test_a_model_without_groups_is_called_by_its_name() -> None:
    shared = {"gpu_memory_utilization": 0.6, "kv_cache_memory_bytes": 1 << 30}
    model = MODEL | {"num_gpus": 0.6, "num_replicas": 2, "engine_args": shared}
    config = parse_config({"models": [model], "predictor": {"artefact": "x"}})
    check_fits(config, [node("here", gpus=2)])
    with pytest.raises(ConfigurationError, match=r"replica of org/small with num_gpus 0\.6 finds no.*num_gpus: 0"):
        check_fits(config, [node("here", gpus=1)])


def test_models_that_no_plan_knows_are_named_where_room_is_short() -> None:
    own = MODEL | {"name": "own", "num_gpus": 2}
    models = [MODEL | {"replica_groups": [group("g", num_gpus=1)]}, own]
    config = parse_config({"models": models, "predictor": {"artefact": "x"}})
    with pytest.raises(ConfigurationError, match="beside the planned replicas the configuration has own: plan"):
        check_fits(config, [node("a")])


def test_a_deploy_may_wait_for_nodes() -> None:
    with pytest.raises(ConfigurationError, match="finds no room"):
        check_deploy(service(group("g", num_gpus=4)), [node("a")])
    check_deploy(service(group("g", num_gpus=4), rollout={"await_nodes": True}), [node("a")])
    check_deploy(parse_config({"models": [MODEL | {"num_gpus": 4}], "predictor": {"artefact": "x"}}), [node("a")])


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"two nodes.*'a'"):
        check_fits(service(group("g")), [node("a"), node("a")])


def test_a_live_cluster_becomes_nodes_and_types() -> None:
    found = cluster_of(
        [
            node("b", gpus=8, **{"ray.io/accelerator-type": "A100-80G"}),
            node("a", gpus=4, **{"apportion-gpu-type": "L4"}),
            node("head", gpus=0),
            node("cores", gpus=0, cpus=6, **{"apportion-gpu-type": "cpu"}),
        ][:3]
    )
    assert [(n.name, n.gpu_type, n.n_gpus) for n in found.nodes] == [("a", "L4", 4), ("b", "A100-80GB", 8)]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node("head", gpus=0)], "no node of the Ray cluster has GPUs"),
        ([node("a", gpus=1, **{"ray.io/accelerator-type": "X9"})], "node a: .* is X9; .*apportion-gpu-type=TYPE"),
        ([node("a", gpus=1)], "not known to Ray"),
    ],
)
def test_a_live_cluster_that_cannot_be_planned_for_says_why(nodes: list[LiveNode], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        cluster_of(nodes)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"replica_groups": [group("g"), group("g")]}, "every group of a model needs its own name"),
        ({"replica_groups": [group("g")], "num_gpus": 1}, r"\['num_gpus'\] belong into the replica_groups"),
        ({"replica_groups": [group("g", num_gpus=0.4, engine_args={})]}, "replica group g: .*at most 0.4"),
        ({"replica_groups": [group("g", num_gpus=2, engine_args={"tensor_parallel_size": 4})]}, "needs num_gpus: 4"),
        ({"replica_groups": [group("g", min_replicas=2)]}, "min_replicas 2 is above num_replicas 1"),
        ({"replica_groups": [group("g", gpus=[0], num_gpus=1)]}, "name the node too"),
        ({"replica_groups": [group("g", node="a", gpus=[0, 0], num_gpus=2)]}, "as many GPUs as a replica takes"),
        ({"replica_groups": [group("g", num_gpus=2, placement_group_bundles=[{"GPU": 1}])]}, "make them equal"),
        ({"replica_groups": [group("g", min_replicas=0), group("h")]}, "g has min_replicas 0, and nothing would start"),
        ({"replica_groups": [group("g/h")]}, "replica_groups.0.name"),
    ],
)
def test_a_wrong_group_is_named_with_its_mend(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_config({"models": [MODEL | fields], "predictor": {"artefact": "x"}})


def test_a_groups_arguments_come_before_the_models() -> None:
    fields = {"engine_args": {"dtype": "float16", "seed": 3}, "replica_groups": [group("g", max_num_seqs=5)]}
    fields["replica_groups"][0]["engine_args"] = {"dtype": "bfloat16"}
    model = parse_config({"models": [MODEL | fields], "predictor": {"artefact": "x"}}).models[0]
    deployed = model.of_group(model.groups[0])
    assert deployed.engine_args == {"dtype": "bfloat16", "seed": 3}
    assert deployed.max_num_seqs == 5
