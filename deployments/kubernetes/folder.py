"""The folder: one file an object, and a kustomization that names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from apportion.allocation.plan import Plan
from apportion.allocation.render import RenderOptions
from apportion.allocation.render import render as with_plan
from apportion.allocation.serve_file import ServeFile
from apportion.deployments.cluster.fitting import check_fits
from apportion.deployments.config.reader import check_config
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.kubernetes.around import claim, disruption_budgets, monitors, network_policy, secrets
from apportion.deployments.kubernetes.pods import Pods, as_nodes, pods_of
from apportion.deployments.kubernetes.rayservice import BlockDumper, ray_service
from apportion.deployments.kubernetes.refusals import check_pods
from apportion.deployments.kubernetes.template import Json
from apportion.deployments.kubernetes.values import Values
from apportion.router.errors import ConfigurationError

HEADING = "# Made by `apportion render --kubernetes`; what differs belongs into the values, or into an overlay.\n"
RAY_SERVICE, KUSTOMIZATION, SECRETS = "rayservice.yaml", "kustomization.yaml", "secrets.example.yaml"


@dataclass(frozen=True)
class Folder:
    """files: text by name; document: what Serve is told; service: the same, parsed; pods: beside the head."""

    files: dict[str, str]
    document: Json
    service: ServiceConfig
    pods: tuple[Pods, ...]

    @property
    def gpus(self) -> int:
        """GPUs that all pods ask for."""
        return sum(one.gpus * one.replicas for one in self.pods)

    def write(self, out: Path) -> None:
        """Writes the files into a folder, which is made if need be."""
        out.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (out / name).write_text(text)

    def check(self, out: Path) -> None:
        """Raises ConfigurationError where a folder holds anything else than what would be written into it now."""
        for name, text in self.files.items():
            file = out / name
            if not file.is_file():
                raise ConfigurationError(f"{file} is missing; render without --check")
            if file.read_text() != text:
                raise ConfigurationError(f"{file} is not what would be written now; render without --check")


def kubernetes_folder(config: Path, values: Values, plan: Plan | None, options: RenderOptions) -> Folder:
    """All objects of a configuration in pods.

    Args:
        config: `serve_config.yaml`, which stays as it is.
        values: the rest.
        plan: replaces the replicas of the configuration; None: they count.
        options: of the plan's replicas, which are bound to no node here.

    Raises:
        ConfigurationError: a file is wrong, or something in it cannot work in pods, or finds no room in them.
    """
    text = ServeFile.read(config).text if plan is None else with_plan(plan, config, options)
    file = ServeFile.of(config, text)
    rollout = file.application["args"].setdefault("rollout", {})
    if not isinstance(rollout, dict):
        raise file.fault(("applications", 0, "args", "rollout"), "must be a mapping; correct it")
    rollout["await_nodes"] = True  # pods come one after another, and only once the configuration is there
    service = check_config(file).service
    pods = pods_of(values, plan, options.num_cpus)
    check_pods(file, service, values, pods)
    try:
        check_fits(service, as_nodes(pods))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error.message} (in the pods that the plan or the values give: {_listed(pods)}; more by spare_pods, "
            "workers or front.replicas)"
        ) from error
    objects: dict[str, Json] = {RAY_SERVICE: ray_service(file.document, service, values, pods)}
    objects |= disruption_budgets(values)
    if values.volume is not None and values.volume.create:
        objects["pvc.yaml"] = claim(values)
    if values.network_policy:
        objects["networkpolicy.yaml"] = network_policy(values)
    if values.monitoring:
        objects |= monitors(values, service)
    files = {name: HEADING + _yaml(content) for name, content in objects.items()}
    files[KUSTOMIZATION] = HEADING + _yaml(
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(objects)}
    )
    needed = secrets(values, service)
    if needed:
        note = "# Not among the resources, so that nothing overwrites yours: fill it in and apply it once.\n"
        files[SECRETS] = HEADING + note + yaml.dump_all(needed, Dumper=BlockDumper, sort_keys=False)
    return Folder(files, file.document, service, pods)


def check_with_ray(document: Json) -> None:
    """Raises ConfigurationError where Ray's own schema does not take what Serve is told."""
    from pydantic import ValidationError

    try:
        from ray.serve.schema import ServeDeploySchema
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--check needs {error.name}, which is not installed; install apportion[serve]"
        ) from error
    try:
        ServeDeploySchema.model_validate(document)
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(f"Ray does not take the configuration: {error}; correct it") from error


def _yaml(content: Any) -> str:
    return yaml.dump(content, Dumper=BlockDumper, sort_keys=False, width=120, allow_unicode=True)


def _listed(pods: tuple[Pods, ...]) -> str:
    return ", ".join(f"{one.replicas} x {one.name}" for one in pods)
