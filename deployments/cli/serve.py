"""`apportion serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apportion.deployments import zoo
from apportion.router.errors import ConfigurationError


def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="The file that `serve deploy` takes too. [default: serve_config.yaml, else the embedded zoo]",
        ),
    ] = None,
) -> None:
    """Serve the models of a configuration on this machine, until Ctrl-C.

    Starts Ray, one vLLM engine a model, and an OpenAI-compatible endpoint in front of them. Without a file, the
    embedded zoo is served; `apportion init` writes its file here to be changed. On a cluster that is running already,
    use `serve deploy FILE`.
    """
    try:
        from apportion.deployments.cluster.launch import serve_forever
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"serving needs {error.name}, which is not installed; install apportion[cpu] or apportion[gpu]"
        ) from error
    here = Path(zoo.SERVE_CONFIG.name)
    serve_forever(config or (here if here.exists() else zoo.SERVE_CONFIG), Console())
