"""`apportion render`: the models of `serve_config.yaml` from a plan, or the whole service as Kubernetes objects."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import console, writable_file, writable_folder
from apportion.deployments.cli.kubernetes import render_kubernetes
from apportion.deployments.cli.models import check_plan
from apportion.router.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.plan import Plan


def render(
    plan: Annotated[Path | None, typer.Argument(help="plan.json")] = None,
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="configuration that the plan's models go into")
    ] = Path("serve_config.yaml"),
    out: Annotated[
        Path | None,
        typer.Option(callback=writable_file, help="where to write it; default: into the configuration itself"),
    ] = None,
    pin: Annotated[
        bool, typer.Option("--pin/--no-pin", help="name node and GPUs of each replica, or let Ray choose")
    ] = True,
    num_cpus: Annotated[float, typer.Option(min=0, help="CPUs that Ray reserves for a replica on a GPU")] = 1.0,
    autoscale: Annotated[
        bool,
        typer.Option("--autoscale", help="let Serve scale each replica type between the plan's bounds; pins nothing"),
    ] = False,
    scale_to_zero: Annotated[
        bool,
        typer.Option(
            "--scale-to-zero",
            help="with --autoscale: models that the plan's bounds let have no replica sleep until a request needs them",
        ),
    ] = False,
    live: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|auto", help="also check that it fits the Ray cluster that is running there"),
    ] = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", metavar="FILE", help="the same as the argument")] = None,
    kubernetes: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            callback=writable_folder,
            help="write the service into it as Kubernetes objects; the plan may be left out",
        ),
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="values.yaml: image, sizes of pods and the like, for --kubernetes"),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="write nothing: is the folder of --kubernetes up to date, and does Ray take it"),
    ] = False,
) -> None:
    """Write the plan's replicas into a configuration that `serve deploy` takes; the rest of the file stays.

    Each model gets one replica group for each node and GPU: share, memory fraction, cache, sequences, tensor parallel
    size, placement group. They are checked together, and the whole file as the service itself checks it, on the
    plan's cluster.

    With `--kubernetes` the configuration stays as it is; what is written are a RayService and what belongs around it,
    with pods in place of the planned nodes.

    Example: `apportion render plan.json --config serve_config.yaml`
    """
    from apportion.allocation.plan import load_plan
    from apportion.allocation.render import RenderOptions
    from apportion.allocation.render import render as render_text

    if scale_to_zero and not autoscale:
        raise InvalidRequestError("--scale-to-zero: only with --autoscale; add it, or leave it out")
    if plan is not None and plan_file is not None:
        raise InvalidRequestError("--plan: the plan is given twice; leave one out")
    given = plan or plan_file
    if kubernetes is not None:
        if out is not None or live is not None:
            raise InvalidRequestError(
                "--out, --live: not with --kubernetes, which names its own folder; leave them out"
            )
        pods = RenderOptions(False, num_cpus, autoscale, scale_to_zero)
        loaded_plan = None if given is None else load_plan(given)
        render_kubernetes(kubernetes, config, values, loaded_plan, pods, check=check)
        return
    if values is not None or check:
        raise InvalidRequestError("--values, --check: only with --kubernetes; add it, or leave them out")
    if given is None:
        raise InvalidRequestError("--plan: missing; name plan.json, which `apportion plan` writes")
    loaded = load_plan(given)
    options = RenderOptions(pin, num_cpus, autoscale, scale_to_zero)
    text = render_text(loaded, config, options)
    target = out or config
    _check(text, target, loaded, live)
    changed = not target.exists() or target.read_text() != text
    target.write_text(text)
    state = "" if changed else "; nothing changed"
    console.print(f"{len(loaded.placements)} planned replicas are in {target}{state}", highlight=False)


def _check(text: str, target: Path, plan: Plan, live: str | None) -> None:
    """As the service itself would, on the plan's cluster and where asked for on a running one."""
    from math import inf

    from apportion.allocation.gpus import CPU
    from apportion.allocation.serve_file import ServeFile

    try:
        from apportion.deployments.cluster.fitting import check_fits
        from apportion.deployments.cluster.nodes import TYPE_LABEL, LiveNode, live_nodes
        from apportion.deployments.config.reader import check_config
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"checking the configuration needs {error.name}, which is not installed; install apportion[serve]"
        ) from error
    try:
        parsed = check_config(ServeFile.of(target, text)).service
        # What a plan says of a node are its GPUs; there may be any number of CPUs beside them.
        gpus: Counter[str] = Counter()
        for node in plan.cluster.nodes:
            gpus[node.machine] += 0 if node.gpu_type == CPU else node.n_gpus
        types = {node.machine: node.gpu_type for node in plan.cluster.nodes}
        nodes = [LiveNode(name, name, {TYPE_LABEL: types[name]}, number, inf) for name, number in gpus.items()]
        check_plan(parsed, plan)
        check_fits(parsed, nodes)
        if live is not None:
            from apportion.deployments.cluster.live import connected

            with connected(live):
                check_fits(parsed, live_nodes())
    except ConfigurationError as error:
        raise ConfigurationError(f"{target} would be wrong, so it was not written: {error.message}") from error
