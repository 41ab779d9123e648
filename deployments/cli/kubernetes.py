"""`apportion render --kubernetes`: the service as a folder of Kubernetes objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apportion.deployments.cli.application import console
from apportion.deployments.cli.models import check_plan
from apportion.router.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.plan import Plan
    from apportion.allocation.render import RenderOptions


def render_kubernetes(
    out: Path, config: Path, values: Path | None, plan: Plan | None, options: RenderOptions, *, check: bool
) -> None:
    """Writes the folder, or with `check` says whether it is what would be written and whether Ray takes it."""
    if values is None:
        raise InvalidRequestError("--values: missing; name a file with at least `image: REGISTRY/apportion:VERSION`")
    try:
        from apportion.deployments.kubernetes.folder import SECRETS, check_with_ray, kubernetes_folder
        from apportion.deployments.kubernetes.values import read_values
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--kubernetes needs {error.name}, which is not installed; install apportion[serve]"
        ) from error
    folder = kubernetes_folder(config, read_values(values), plan, options)
    if plan is not None:
        check_plan(folder.service, plan)
    if check:
        folder.check(out)
        check_with_ray(folder.document)
        console.print(f"{out} is what would be written now, and Ray's schema takes it", highlight=False)
        return
    folder.write(out)
    pods = ", ".join(f"{one.replicas} x {one.name}" for one in folder.pods)
    console.print(f"{len(folder.files)} files are in {out}: {pods}; {folder.gpus} GPUs", highlight=False)
    if SECRETS in folder.files:
        console.print(f"fill in {out / SECRETS} and apply it once; then kubectl apply -k {out}", highlight=False)
