"""The options that say which models are meant: the service's own, or a list of models alone."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.models import DescribedModels

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="take the models of this configuration of the service"),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="take the models of this file, a list `models:` with the same fields, instead"),
]


def read_models(config: Path | None, models: Path | None, gpu_types: Collection[str] | None = None) -> DescribedModels:
    """The models that the options name.

    Args:
        gpu_types: those of the cluster, which models may name beside those of the built-in table; None: any will do.

    Raises:
        InvalidRequestError: not exactly one of the options is given.
        ConfigurationError: the file is missing or wrong; names file, line, field and mend.
    """
    from apportion.allocation.models import described, load_models
    from apportion.allocation.serve_file import MODELS
    from apportion.deployments.config.models import ModelConfig
    from apportion.deployments.config.reader import read_config

    if config is not None and models is None:
        found = read_config(config)
        return described(found.file, MODELS, found.service.models, gpu_types)
    if models is not None and config is None:
        return load_models(models, gpu_types, ModelConfig)
    raise InvalidRequestError("--config, --models: give exactly one of them, the file that describes the models")
