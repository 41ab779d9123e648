"""`values.yaml`: what a folder of Kubernetes objects needs to know beside the service's own configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from apportion.allocation.yaml_files import YamlFile
from apportion.router.checked import Section

RAY_VERSION = "2.60.0"  # that `apportion[serve]` pins
Name = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]+-)*[a-z0-9]+$", max_length=40)]
Labels = dict[str, str]


class Size(Section):
    """What one pod asks for, and may take at most."""

    cpus: float = Field(gt=0, description="CPUs of a pod.")
    memory_gib: float = Field(gt=0, description="Memory of a pod in GiB, `/dev/shm` included.")


class FrontPods(Size):
    """Pods without a GPU: ingresses, Predictor, Router and Solver, and engines on the CPU."""

    cpus: float = Field(8, gt=0, description="CPUs of a pod.")
    memory_gib: float = Field(16, gt=0, description="Memory of a pod in GiB.")
    replicas: int = Field(2, ge=1, description="Pods; with two an ingress is left when a node goes.")


class WorkerPods(Section):
    """Equal pods with GPUs, for a configuration without a plan."""

    name: Name = Field(description="Name of the worker group.")
    gpu_type: str = Field(min_length=1, description="Type of its GPUs, as `gpu_type` of replica groups calls it.")
    gpus: int = Field(ge=1, le=64, description="GPUs of a pod.")
    replicas: int = Field(1, ge=1, description="Pods.")


class Volume(Section):
    """A volume that every pod mounts: artefacts, models, downloads of the hub."""

    claim: Name = Field(description="Name of the PersistentVolumeClaim.")
    mount: str = Field("/models", pattern=r"^/[^:]+$", description="Where pods find it.")
    create: bool = Field(True, description="Write the claim too; false: it is there already.")
    size_gib: int = Field(200, ge=1, description="Size of the claim that is written, in GiB.")
    storage_class: str | None = Field(None, description="Its storage class; null: the cluster's default.")


class SecretKey(Section):
    """Where a variable's value is kept."""

    secret: Name = Field(description="Name of the Secret.")
    key: str = Field(min_length=1, description="Its key.")


class Redis(Section):
    """Where Ray's head keeps what it must find again when it restarts."""

    address: str = Field(min_length=1, description="`redis:6379`, as KubeRay's gcsFaultToleranceOptions take it.")
    password_secret: Name | None = Field(None, description="Secret with the key `password`; null: there is none.")


class Values(Section):
    """What the objects are made of, beside the configuration and the plan."""

    image: str = Field(min_length=1, description="Image of all pods, with Apportion in it (Dockerfile).")
    name: Name = Field("apportion", description="Name of the RayService; the other objects' names start with it.")
    namespace: Name = Field("apportion", description="Namespace of all objects.")
    ray_version: str = Field(RAY_VERSION, description=f"Ray in the image; {RAY_VERSION} is what Apportion needs.")
    pull_secrets: tuple[Name, ...] = Field((), description="Secrets to pull the image with.")
    head: Size = Field(
        default_factory=lambda: Size(cpus=2, memory_gib=8), description="Ray's head, which runs nothing of the service."
    )
    front: FrontPods = Field(default_factory=lambda: FrontPods(), description="Pods without a GPU.")
    pods: Literal["node", "gpu"] = Field(
        "node",
        description="Of a plan: a pod as large as each planned node, or one for each GPU or group of GPUs in use.",
    )
    spare_pods: int = Field(0, ge=0, description="Pods of each kind beyond those of the plan.")
    workers: tuple[WorkerPods, ...] = Field((), description="Pods with GPUs where there is no plan.")
    cpus_per_gpu: float = Field(8, gt=0, description="CPUs of a pod for each of its GPUs.")
    memory_gib_per_gpu: float = Field(64, gt=0, description="Memory of a pod in GiB for each of its GPUs.")
    shm_gib_per_gpu: float = Field(
        8, gt=0, description="`/dev/shm` in GiB for each GPU, of the pod's memory; engines on several GPUs talk there."
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="How the device plugin calls a GPU.")
    node_selectors: dict[str, Labels] = Field(
        default_factory=dict,
        description="Labels of the nodes that have a type of GPU, by type; needed where there are several.",
    )
    tolerations: tuple[dict[str, Any], ...] = Field(
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
        description="Of pods with GPUs, as Kubernetes takes them.",
    )
    autoscale_pods: bool = Field(
        False, description="Ray's autoscaler starts pods with GPUs as replicas ask for them; false: all run always."
    )
    volume: Volume | None = Field(None, description="Null: what the configuration names lies in the image.")
    image_folders: tuple[str, ...] = Field((), description="Folders that the image holds, with models or artefacts.")
    hugging_face_secret: Name | None = Field(
        None, description="Secret with the key `token` for models that the hub gives only to some; null: none."
    )
    providers_secret: Name = Field(
        "apportion-providers",
        description="Secret that holds what bought models need, each variable (`api_key_env`, headers) under its name.",
    )
    ledger_secret: Name = Field(
        "apportion-ledger",
        description="Secret with the key `url`, for `budget.database_env` or `budget.database_file`.",
    )
    keys_secret: Name = Field(
        "apportion-keys", description="Secret with the key `keys.yaml`, for `keys.file` or `keys.env`."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment of all pods, beside what is needed.")
    secret_env: dict[str, SecretKey] = Field(
        default_factory=dict, description="Variables of all pods whose values are Secrets', such as providers' keys."
    )
    upgrade: Literal["in_place", "new_cluster"] = Field(
        "in_place",
        description="What a change does: Serve replaces replicas in the pods there are; or a second cluster starts "
        "beside the first, which takes all GPUs twice. `in_place` leaves changes of pods to you.",
    )
    redis: Redis | None = Field(None, description="Null: when Ray's head is lost, so is the service until it is back.")
    monitoring: bool = Field(False, description="Write what Prometheus' operator and Grafana take.")
    metrics_secret: Name | None = Field(
        None, description="Secret with the key `key`, an API key of an operator; needed where there are `keys`."
    )
    monitoring_namespace: Name = Field("monitoring", description="Where Prometheus runs.")
    network_policy: bool = Field(True, description="Write a NetworkPolicy: only port 8000 is reached from outside.")
    clients: tuple[dict[str, Any], ...] = Field(
        (), description="Who may reach the port, as `from` of a NetworkPolicy takes it; []: everybody."
    )
    operator_namespace: str = Field("kuberay-operator", description="Where KubeRay runs; it has to reach the head.")

    @model_validator(mode="after")
    def _versions_agree(self) -> Values:
        if self.ray_version != RAY_VERSION:
            raise ValueError(
                f"ray_version: {self.ray_version} is not {RAY_VERSION}, which Apportion needs; mend the image"
            )
        names = [one.name for one in self.workers]
        if len(set(names)) < len(names) or "front" in names:
            raise ValueError(f"workers: the names {names} must differ, and `front` is taken; rename them")
        return self


def read_values(path: Path) -> Values:
    """What the file holds.

    Raises:
        ConfigurationError: the file is missing, no YAML, or a field is wrong; names file and line.
    """
    return YamlFile.read(path, "write it with at least `image: REGISTRY/apportion:VERSION`").checked(Values)
