"""`apportion reference`: writes docs/reference; for who works on the project, so `--help` does not list it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apportion.deployments.cli.application import writable_folder


def reference(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(callback=writable_folder, help="Folder to write the pages into.")],
) -> None:
    """Write the reference pages of the configuration, of the commands, of requests' fields, and of the metrics."""
    from apportion.deployments.reference.commands import commands_page
    from apportion.deployments.reference.configuration import configuration_page
    from apportion.deployments.reference.fields import fields_page
    from apportion.deployments.reference.metrics import metrics_page

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration.md").write_text(configuration_page())
    (folder / "fields.md").write_text(fields_page())
    (folder / "metrics.md").write_text(metrics_page())
    (folder / "commands.md").write_text(commands_page(context.find_root().command))
