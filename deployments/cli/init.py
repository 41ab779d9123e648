"""`apportion init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apportion.deployments import zoo
from apportion.deployments.cli.application import console
from apportion.router.errors import ConfigurationError


def init(force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False) -> None:
    """Write serve_config.yaml, which serves the embedded zoo, into this folder: a configuration to start from."""
    file = Path(zoo.SERVE_CONFIG.name)
    if file.exists() and not force:
        raise ConfigurationError(f"{file} is there already; replace it with --force, or change to another folder")
    file.write_text(zoo.SERVE_CONFIG.read_text())
    console.print(f"Wrote {file}; `apportion serve` serves it.")
