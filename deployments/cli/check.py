"""`apportion check`: a configuration, with all that it names, before it is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apportion.deployments.cli.application import console, warn


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the configuration, as `serve deploy` takes it")],
) -> None:
    """Say what is wrong with a configuration before it is deployed: fields, the Router's `user_config`, artefact, keys.

    Nothing is started or changed. Exits with 2 where something is wrong, and names file, line, field and mend.

    Example: `apportion check serve_config.yaml && serve deploy serve_config.yaml`
    """
    from apportion.deployments.config.knowledge import Knowledge
    from apportion.deployments.config.reader import read_config
    from apportion.deployments.keys.check import check_keys
    from apportion.router.budget.schema import has_password

    found = read_config(file)
    service = found.service
    notices = Knowledge.of(service).notices
    check_keys(found)
    budget = service.budget
    if budget is not None and budget.database is not None and has_password(budget.database):
        console.print(
            f"{file}: budget.database holds a password, which Ray's dashboard and `serve status` show; put the URL "
            "into the environment (budget.database_env) or a file (budget.database_file)",
            highlight=False,
            markup=False,
        )
    for notice in notices:
        warn(notice)
    console.print(f"{file}: right; it serves {', '.join(service.names)}", highlight=False, markup=False)
