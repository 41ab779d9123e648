"""The pods' template: image, environment, what is mounted, and what they may do."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from apportion.allocation.gpus import CPU
from apportion.deployments.cluster.launch import RAY_ENV
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.kubernetes.pods import Pods
from apportion.deployments.kubernetes.values import Values

Json = dict[str, Any]
APP_LABEL = "app.kubernetes.io/name"
USER = 1000  # of the image
END_S = 30.0  # beyond the longest request, for replicas to part and for Ray to end
_OF_ONE_MACHINE = {"RAY_AUTH_MODE", "RAY_SERVE_LOG_TO_STDERR", "RAY_worker_niceness"}
_VOLUME, _KEYS, _LEDGER, _SHM = "models", "keys", "ledger", "shm"


def head_template(values: Values, config: ServiceConfig) -> Json:
    """Ray's head: it also builds the application, so it sees what the others see."""
    resources = _resources(values.head.cpus, values.head.memory_gib)
    # Ray's autoscaler runs beside it and asks Kubernetes for pods.
    return _template("ray-head", values, config, resources, {"automountServiceAccountToken": values.autoscale_pods})


def worker_template(pods: Pods, values: Values, config: ServiceConfig) -> Json:
    """Of a worker group."""
    resources = _resources(pods.cpus, pods.memory_gib)
    where: Json = {"automountServiceAccountToken": False}
    if pods.gpus:
        resources[values.gpu_resource] = str(pods.gpus)
        where["tolerations"] = list(values.tolerations)
        where["nodeSelector"] = values.node_selectors.get(str(pods.gpu_type), {})
    elif pods.gpu_type == CPU:
        where["nodeSelector"] = values.node_selectors.get(CPU, {})
    template = _template("ray-worker", values, config, resources, where)
    if pods.gpus:
        spec = template["spec"]
        size_gib = pods.gpus * values.shm_gib_per_gpu
        spec["volumes"].append({"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": f"{size_gib:g}Gi"}})
        spec["containers"][0]["volumeMounts"].append({"name": _SHM, "mountPath": "/dev/shm"})
    return template


def provider_variables(config: ServiceConfig) -> list[str]:
    """Environment variables that hold what providers of bought models ask for."""
    bought = [model.external for model in config.models if model.external is not None]
    return sorted({name for external in bought for name in external.variables})


def _template(container: str, values: Values, config: ServiceConfig, resources: Json, where: Json) -> Json:
    mounts, volumes = _mounted(values, config)
    spec = {
        "terminationGracePeriodSeconds": int(config.dispatch.request_timeout_s + END_S),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in values.pull_secrets],
        **where,
        "containers": [
            {
                "name": container,
                "image": values.image,
                "env": _environment(values, config),
                "resources": {"requests": resources, "limits": dict(resources)},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    return {
        "metadata": {"labels": {APP_LABEL: values.name}},
        "spec": {name: value for name, value in spec.items() if value not in ([], {})} | {"volumes": volumes},
    }


def _resources(cpus: float, memory_gib: float) -> Json:
    return {"cpu": f"{cpus:g}", "memory": f"{memory_gib:g}Gi"}


def _environment(values: Values, config: ServiceConfig) -> list[Json]:
    """What Ray reads at its start, what comes from Secrets, and what the values say, which holds before the rest."""
    plain = {name: value for name, value in RAY_ENV.items() if name not in _OF_ONE_MACHINE}
    if values.volume is not None:
        plain["HF_HOME"] = f"{values.volume.mount}/huggingface"
    secret = {name: (values.providers_secret, name) for name in provider_variables(config)}
    secret |= {name: (one.secret, one.key) for name, one in values.secret_env.items()}
    if config.budget is not None and config.budget.database_env is not None:
        secret[config.budget.database_env] = (values.ledger_secret, "url")
    if config.keys is not None and config.keys.env is not None:
        secret[config.keys.env] = (values.keys_secret, "keys.yaml")
    if values.hugging_face_secret is not None:
        secret["HF_TOKEN"] = (values.hugging_face_secret, "token")
    return [{"name": name, "value": value} for name, value in sorted((plain | values.env).items())] + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": of, "key": key}}}
        for name, (of, key) in sorted(secret.items())
    ]


def _mounted(values: Values, config: ServiceConfig) -> tuple[list[Json], list[Json]]:
    """What containers mount, and the volumes of the pod."""
    mounts: list[Json] = []
    volumes: list[Json] = []
    if values.volume is not None:
        mounts.append({"name": _VOLUME, "mountPath": values.volume.mount})
        volumes.append({"name": _VOLUME, "persistentVolumeClaim": {"claimName": values.volume.claim}})
    if config.keys is not None and config.keys.file is not None:
        # The whole folder: a file that is mounted by itself does not change with its Secret.
        path = PurePosixPath(config.keys.file)
        mounts.append({"name": _KEYS, "mountPath": str(path.parent), "readOnly": True})
        volumes.append(_secret(_KEYS, values.keys_secret, "keys.yaml", path.name))
    if config.budget is not None and config.budget.database_file is not None:
        path = PurePosixPath(config.budget.database_file)
        mounts.append({"name": _LEDGER, "mountPath": str(path), "subPath": path.name, "readOnly": True})
        volumes.append(_secret(_LEDGER, values.ledger_secret, "url", path.name))
    return mounts, volumes


def _secret(volume: str, secret: str, key: str, path: str) -> Json:
    return {"name": volume, "secret": {"secretName": secret, "items": [{"key": key, "path": path}]}}
