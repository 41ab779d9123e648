"""`apportion dashboards`: writes Grafana's dashboard and Prometheus' rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apportion.deployments.cli.application import writable_folder


def dashboards(
    folder: Annotated[Path, typer.Argument(callback=writable_folder, help="Folder to write them into.")],
) -> None:
    """Write a Grafana dashboard (apportion.json) and Prometheus alert rules (alerts.yml) of the service's metrics."""
    from apportion.deployments.observability.alerts import rules
    from apportion.deployments.observability.dashboard import dashboard

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "apportion.json").write_text(dashboard())
    (folder / "alerts.yml").write_text(rules())
