"""`apportion check`: a configuration, with all that it names, before it is deployed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.deployments.cli.application import console, warn

if TYPE_CHECKING:
    from apportion.deployments.config.models import ModelConfig


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the configuration, as `serve deploy` takes it")],
) -> None:
    """Say what is wrong with a configuration before it is deployed: fields, the Router's `user_config`, artefact, keys.

    Nothing is started or changed. Exits with 2 where something is wrong, and names file, line, field and mend.

    Example: `apportion check serve_config.yaml && serve deploy serve_config.yaml`
    """
    from apportion.deployments.config.knowledge import Knowledge, check_same
    from apportion.deployments.config.reader import read_config
    from apportion.deployments.keys.check import check_keys
    from apportion.router.budget.schema import has_password

    found = read_config(file)
    service = found.service
    knowledge = Knowledge.of(service)
    if found.artefact is not None:
        check_same(knowledge.known, Knowledge.of(found.replaced).known, found.artefact)
    check_keys(found)
    budget = service.budget
    if budget is not None and budget.database is not None and has_password(budget.database):
        console.print(
            f"{file}: budget.database holds a password, which Ray's dashboard and `serve status` show; put the URL "
            "into the environment (budget.database_env) or a file (budget.database_file)",
            highlight=False,
            markup=False,
        )
    for notice in (*knowledge.notices, *(notice for model in service.models for notice in _seen(model))):
        warn(notice)
    console.print(f"{file}: right; it serves {', '.join(service.names)}", highlight=False, markup=False)


def _seen(model: ModelConfig) -> Iterator[str]:
    """What can be seen of a model from here that may not be meant."""
    if model.external is not None:
        for name in model.external.variables:
            if not os.environ.get(name):
                yield f"{model.name}: the variable {name} is not set here; it has to be where Ray is started"
        return
    source = model.resolved_source
    if source.startswith(("/", "./", "../", "~")) and not Path(source).is_dir():
        yield f"{model.name}: there is no folder {source} on this machine; each node that runs it has to have it"
    elif not model.all_capabilities.chat and model.capabilities.chat is None:
        yield (
            f"{model.name}: it has no chat template, so it answers completions only; if it is no base model, give "
            "engine_args.chat_template"
        )
