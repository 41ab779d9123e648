"""`apportion serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apportion.router.errors import ConfigurationError


def serve(
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The file that `serve deploy` takes too.")
    ] = Path("serve_config.yaml"),
) -> None:
    """Serve the models of a configuration on this machine, until Ctrl-C.

    Starts Ray, one vLLM engine a model, and an OpenAI-compatible endpoint in front of them. On a cluster that is
    running already, use `serve deploy FILE`.
    """
    try:
        from apportion.deployments.cluster.launch import serve_forever
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"serving needs {error.name}, which is not installed; install apportion[cpu] or apportion[gpu]"
        ) from error
    serve_forever(config, Console())
