"""The RayService: the configuration as Serve takes it, and the pods that run it."""

from __future__ import annotations

from typing import Any

import yaml

from apportion.deployments.cluster.nodes import TYPE_LABEL
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.kubernetes.pods import FRONT, Pods
from apportion.deployments.kubernetes.template import APP_LABEL, Json, head_template, worker_template
from apportion.deployments.kubernetes.values import Values

UPGRADES = {"in_place": "None", "new_cluster": "NewCluster"}


class Block(str):
    """A text that YAML shows line by line."""


class BlockDumper(yaml.SafeDumper):
    """Writes `Block`s as they read, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Nothing is written as an alias of something else."""
        return True


BlockDumper.add_representer(
    Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def metadata(values: Values, suffix: str = "") -> Json:
    """Of every object."""
    return {
        "name": values.name + suffix,
        "namespace": values.namespace,
        "labels": {APP_LABEL: values.name, "app.kubernetes.io/managed-by": "apportion-render"},
    }


def ray_service(document: Json, config: ServiceConfig, values: Values, pods: tuple[Pods, ...]) -> Json:
    """The object that KubeRay makes a cluster of, and deploys the configuration on.

    Args:
        document: what `serve deploy` takes.
        config: the same, parsed.
        values: the rest.
        pods: all that are no head.
    """
    serve = yaml.dump(document, Dumper=BlockDumper, sort_keys=False, width=120, allow_unicode=True)
    cluster: Json = {
        "rayVersion": values.ray_version,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},  # nothing of the service runs beside the head
            "template": head_template(values, config),
        },
        "workerGroupSpecs": [_group(one, values, config) for one in pods],
    }
    if values.autoscale_pods:
        cluster["enableInTreeAutoscaling"] = True
    if values.redis is not None:
        cluster["gcsFaultToleranceOptions"] = _redis(values)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(values),
        "spec": {
            "upgradeStrategy": {"type": UPGRADES[values.upgrade]},
            "serveConfigV2": Block(serve),
            "rayClusterConfig": cluster,
        },
    }


def _group(pods: Pods, values: Values, config: ServiceConfig) -> Json:
    scaled = values.autoscale_pods and pods.name != FRONT
    group: Json = {
        "groupName": pods.name,
        "replicas": 0 if scaled else pods.replicas,
        "minReplicas": 0 if scaled else pods.replicas,
        "maxReplicas": pods.replicas,
        "rayStartParams": {},
        "template": worker_template(pods, values, config),
    }
    if pods.gpu_type is not None:
        group["labels"] = {TYPE_LABEL: pods.gpu_type}
    return group


def _redis(values: Values) -> Json:
    assert values.redis is not None
    options: Json = {"redisAddress": values.redis.address}
    if values.redis.password_secret is not None:
        reference = {"name": values.redis.password_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    return options
