"""The option `--cluster`, which several commands share: a file, or the Ray cluster that is running."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.router.errors import ConfigurationError

if TYPE_CHECKING:
    from apportion.allocation.cluster import Cluster

LIVE = "ray"

_OPTION = typer.Option(
    metavar="FILE|ray", help="cluster.yaml; or `ray`, or `ray:ADDRESS`: as the running Ray cluster says"
)
ClusterOption = Annotated[str, _OPTION]
OptionalClusterOption = Annotated[str | None, _OPTION]


def read_cluster(given: str) -> Cluster:
    """The cluster of a file, or of a running Ray.

    Raises:
        ConfigurationError: the file is wrong; Ray is not installed, cannot be reached, or has no node with GPUs.
    """
    from apportion.allocation.cluster import Cluster as Described

    scheme, _, address = given.partition(":")
    if scheme != LIVE or Path(given).exists():
        return Described.load(given)
    try:
        from apportion.deployments.cluster.live import cluster_from_ray
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"reading a running cluster needs {error.name}, which is not installed; install apportion[serve]"
        ) from error
    return cluster_from_ray(address or None)
