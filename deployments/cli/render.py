"""`apportion render`: the models of `serve_config.yaml` from a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import console
from apportion.router.errors import ConfigurationError

if TYPE_CHECKING:
    from apportion.allocation.cluster import Cluster


def render(
    plan: Annotated[Path, typer.Argument(help="plan.json")],
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="configuration that the plan's models go into")
    ] = Path("serve_config.yaml"),
    out: Annotated[Path | None, typer.Option(help="where to write it; default: into the configuration itself")] = None,
    pin: Annotated[
        bool, typer.Option("--pin/--no-pin", help="name node and GPUs of each replica, or let Ray choose")
    ] = True,
    num_cpus: Annotated[float, typer.Option(min=0, help="CPUs that Ray reserves for a replica on a GPU")] = 1.0,
    autoscale: Annotated[
        bool,
        typer.Option("--autoscale", help="let Serve scale each replica type between the plan's bounds; pins nothing"),
    ] = False,
    live: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|auto", help="also check that it fits the Ray cluster that is running there"),
    ] = None,
) -> None:
    """Write the plan's replicas into a configuration that `serve deploy` takes; the rest of the file stays.

    Each model gets one replica group for each node and GPU: share, memory fraction, cache, sequences, tensor parallel
    size, placement group. They are checked together, and the whole file as the service itself checks it, on the
    plan's cluster.

    Example: `apportion render plan.json --config serve_config.yaml`
    """
    from apportion.allocation.plan import load_plan
    from apportion.allocation.render import RenderOptions
    from apportion.allocation.render import render as render_text

    loaded = load_plan(plan)
    options = RenderOptions(pin, num_cpus, autoscale)
    text = render_text(loaded, config, options)
    target = out or config
    _check(text, target, loaded.cluster, live)
    changed = not target.exists() or target.read_text() != text
    target.write_text(text)
    state = "" if changed else "; nothing changed"
    console.print(f"{len(loaded.placements)} planned replicas are in {target}{state}", highlight=False)


def _check(text: str, target: Path, cluster: Cluster, live: str | None) -> None:
    """As the service itself would, on the plan's cluster and where asked for on a running one."""
    from math import inf

    from apportion.allocation.gpus import CPU
    from apportion.allocation.serve_file import ServeFile

    try:
        from apportion.deployments.cluster.fitting import check_fits
        from apportion.deployments.cluster.nodes import LiveNode, live_nodes
        from apportion.deployments.config.reader import check_config
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"checking the configuration needs {error.name}, which is not installed; install apportion[serve]"
        ) from error
    try:
        parsed = check_config(ServeFile.of(target, text)).service
        # What a plan says of a node are its GPUs; there may be any number of CPUs beside them.
        nodes = [
            LiveNode(node.name, node.name, {}, 0 if node.gpu_type == CPU else node.n_gpus, inf)
            for node in cluster.nodes
        ]
        check_fits(parsed, nodes)
        if live is not None:
            from apportion.deployments.cluster.live import connected

            with connected(live):
                check_fits(parsed, live_nodes())
    except ConfigurationError as error:
        raise ConfigurationError(f"{target} would be wrong, so it was not written: {error.message}") from error
