"""Deploys a rendered plan on a Ray of two nodes with four logical GPUs each, and prints where everything is as JSON.

A process of its own: another test's Ray may be running in the caller's. The engines are simulated, and named so.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.render import RenderOptions, render
from apportion.allocation.replica import Profile, ReplicaType
from apportion.router.prices import ModelPrice

ZOO = ("wren", "finch", "lark", "heron")
# Ray alone could fail on these: 0.5 beside 0.4 leaves no room for 0.6.
PLACES = (
    ("wren", 0.6, 1, "a", (0,)),
    ("finch", 0.4, 1, "a", (0,)),
    ("finch", 0.5, 1, "a", (1,)),
    ("lark", 0.5, 1, "a", (1,)),
    ("heron", 1.0, 2, "a", (2, 3)),
    ("wren", 0.3, 1, "b", (0,)),
    ("wren", 0.3, 1, "b", (0,)),
    ("lark", 0.4, 1, "b", (0,)),
    ("heron", 1.0, 1, "b", (1,)),
    ("finch", 0.6, 1, "b", (2,)),
    ("lark", 0.6, 1, "b", (3,)),
    ("finch", 0.4, 1, "b", (3,)),
)


def a_plan(nodes: tuple[Node, ...] = (Node("a", "L4", 4), Node("b", "L4", 4))) -> Plan:
    placements = tuple(
        PlacedReplica(ReplicaType(model, "L4", share, gpus), node, where) for model, share, gpus, node, where in PLACES
    )
    profiles = tuple(
        Profile(replica, True, 8, 100.0, 1000.0, 0.1, 0.5, 2.0, "computed")
        for replica in sorted({placed.replica for placed in placements})
    )
    models = tuple(ModelSpec(name, f"zoo:{name}", ModelPrice(1.0, 1.0), max_model_len=256) for name in ZOO)
    return Plan(Cluster(nodes, GPU_TYPES), models, profiles, placements, (), 0.5, 1e-5, 0.5, 0.5, 0.0, None, 1.0, 16)


def base_config() -> dict[str, Any]:
    """A service whose engines are simulated, without replicas."""
    small = {"num_cpus": 0.1}
    models = [
        {
            "name": name,
            "source": f"zoo:{name}",
            "input_usd_per_million": 1.0,
            "output_usd_per_million": 1.0,
            "max_model_len": 256,
            "engine": "simulated",
            "simulated": {},
        }
        for name in ZOO
    ]
    arguments = {
        "models": models,
        "predictor": {"artefact": "zoo:predictor", **small},
        **dict.fromkeys(("solver", "router", "ingress"), small),
        "dispatch": {"engine_host": "127.0.0.1"},
    }
    return {
        "applications": [{"name": "apportion", "import_path": "apportion.deployments.app:build", "args": arguments}]
    }


def main(folder: Path, port: int) -> dict[str, Any]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_SERVE_ENABLE_HA_PROXY": "0"}  # two proxies would want one port
    from apportion.deployments.cluster.launch import set_ray_environment

    set_ray_environment()
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster as LogicalCluster

    from apportion.deployments.app import build
    from apportion.deployments.cluster.live import cluster_from_ray
    from apportion.router.errors import ConfigurationError

    def node(name: str) -> dict[str, Any]:
        return {"num_cpus": 8, "num_gpus": 4, "labels": {"apportion-node": name, "apportion-gpu-type": "L4"}}

    logical = LogicalCluster(initialize_head=True, head_node_args={"include_dashboard": False, **node("a")})
    logical.add_node(**node("b"))
    ray.init(address=logical.address, namespace="serve", log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        file = folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(base_config(), sort_keys=False))
        arguments = yaml.safe_load(render(a_plan(), file, RenderOptions(num_cpus=0.1)))["applications"][0]["args"]
        refusals = []
        for change in ({"node": "c"}, {"num_replicas": 3}):
            wrong = json.loads(json.dumps(arguments))
            wrong["models"][0]["replica_groups"][1] |= change
            try:
                build(wrong)
            except ConfigurationError as error:
                refusals.append(error.message)
        started = len(serve.status().applications)
        serve.run(build(arguments), name="apportion", route_prefix="/")
        live = cluster_from_ray()
        return {
            "cluster": [[n.name, n.gpu_type, n.n_gpus] for n in live.nodes],
            "refusals": refusals,
            "started_before": started,
            "replicas": _replicas(),
            "answer": _ask(port),
        }
    finally:
        serve.shutdown()
        ray.shutdown()
        logical.shutdown()


def _replicas() -> list[dict[str, Any]]:
    """Deployment, node and visible GPUs of each engine replica, as its process has them."""
    import ray
    from ray._private.state import actors

    names = {node["NodeID"]: node["Labels"]["apportion-node"] for node in ray.nodes()}
    found = []
    for actor in actors().values():
        if actor["State"] == "ALIVE" and "#Engine-" in str(actor["Name"]):
            visible = psutil.Process(actor["Pid"]).environ()["CUDA_VISIBLE_DEVICES"]
            deployment = actor["Name"].split("#")[1]
            found.append({"deployment": deployment, "node": names[actor["Address"]["NodeID"]], "gpus": visible})
    return sorted(found, key=lambda replica: (replica["node"], replica["gpus"], replica["deployment"]))


def _ask(port: int) -> list[Any]:
    import httpx

    body = {"model": "finch", "messages": [{"role": "user", "content": "What is 1 plus 1?"}]}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
    state = httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).json()
    return [answer.status_code, {name: model["slots"] for name, model in state["models"].items()}]


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), int(sys.argv[2]))
    Path(sys.argv[1], "result.json").write_text(json.dumps(result))
