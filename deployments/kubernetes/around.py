"""What belongs around the RayService: storage, disruptions, who reaches what, and what watches it."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.kubernetes.rayservice import Block, metadata
from apportion.deployments.kubernetes.refusals import PORT
from apportion.deployments.kubernetes.template import APP_LABEL, Json, provider_variables
from apportion.deployments.kubernetes.values import Values
from apportion.deployments.observability.alerts import rules
from apportion.deployments.observability.dashboard import dashboard

NODE_TYPE = "ray.io/node-type"  # KubeRay's label of a pod: head or worker
_RAY_METRICS = 8080
_FILL_IN = "FILL-IN"


def claim(values: Values) -> Json:
    """The volume that every pod mounts, on whichever node it is."""
    assert values.volume is not None
    spec: Json = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": f"{values.volume.size_gib}Gi"}},
    }
    if values.volume.storage_class is not None:
        spec["storageClassName"] = values.volume.storage_class
    named = metadata(values) | {"name": values.volume.claim}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": named, "spec": spec}


def disruption_budgets(values: Values) -> Iterator[tuple[str, Json]]:
    """Workers go one by one; the head not at all, where nothing would be found again without it."""
    heads = 0 if values.redis is None else 1
    for node_type, at_most in (("head", heads), ("worker", 1)):
        yield (
            f"pdb-{node_type}.yaml",
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": metadata(values, f"-{node_type}"),
                "spec": {"maxUnavailable": at_most, "selector": {"matchLabels": _pods(values, node_type)}},
            },
        )


def network_policy(values: Values) -> Json:
    """Clients reach the port of requests; engines, Router and Ray are reached from the service's own pods."""
    ours: Json = {"from": [{"podSelector": {"matchLabels": _pods(values)}}]}
    operator: Json = {"from": [_namespace(values.operator_namespace)]}
    clients: Json = {"ports": [{"protocol": "TCP", "port": PORT}]}
    if values.clients:
        clients = {"from": list(values.clients)} | clients
    ingress = [ours, operator, clients]
    if values.monitoring:
        ports = [{"protocol": "TCP", "port": port} for port in (PORT, _RAY_METRICS)]
        ingress.append({"from": [_namespace(values.monitoring_namespace)], "ports": ports})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(values),
        "spec": {"podSelector": {"matchLabels": _pods(values)}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def monitors(values: Values, config: ServiceConfig) -> Iterator[tuple[str, Json]]:
    """For Prometheus' operator and for Grafana's sidecar.

    Every ingress tells the whole service's numbers, so only the head's proxy is asked: asked of each, they would count
    as often as there are pods.
    """
    endpoint: Json = {"port": "http", "path": "/metrics", "interval": "15s"}
    if config.keys is not None and values.metrics_secret is not None:
        endpoint["authorization"] = {"credentials": {"name": values.metrics_secret, "key": "key"}}
    service = metadata(values, "-metrics")
    service["labels"] = service["labels"] | {"apportion/metrics": values.name}
    yield (
        "metrics-service.yaml",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {
                "selector": _pods(values, "head"),
                "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
            },
        },
    )
    yield (
        "servicemonitor.yaml",
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": metadata(values),
            "spec": {"selector": {"matchLabels": {"apportion/metrics": values.name}}, "endpoints": [endpoint]},
        },
    )
    yield (
        "prometheusrule.yaml",
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": metadata(values),
            "spec": yaml.safe_load(rules()),
        },
    )
    board = metadata(values, "-dashboard")
    board["labels"] = board["labels"] | {"grafana_dashboard": "1"}
    yield (
        "dashboard-configmap.yaml",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": board, "data": {"apportion.json": Block(dashboard())}},
    )


def secrets(values: Values, config: ServiceConfig) -> list[Json]:
    """Secrets that have to be there, with nothing in them yet."""
    needed: dict[str, set[str]] = {}
    if config.budget is not None:
        needed.setdefault(values.ledger_secret, set()).add("url")
    if config.keys is not None:
        needed.setdefault(values.keys_secret, set()).add("keys.yaml")
    for variable in provider_variables(config):
        if variable not in values.secret_env:
            needed.setdefault(values.providers_secret, set()).add(variable)
    named = ((values.hugging_face_secret, "token"), (values.metrics_secret, "key"))
    redis = None if values.redis is None else values.redis.password_secret
    for secret, key in (*named, (redis, "password"), *((one.secret, one.key) for one in values.secret_env.values())):
        if secret is not None:
            needed.setdefault(secret, set()).add(key)
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(values) | {"name": name},
            "stringData": dict.fromkeys(sorted(keys), _FILL_IN),
        }
        for name, keys in sorted(needed.items())
    ]


def _pods(values: Values, node_type: str | None = None) -> Json:
    return {APP_LABEL: values.name} | ({} if node_type is None else {NODE_TYPE: node_type})


def _namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
