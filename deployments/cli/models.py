"""The options that say which models are meant: the service's own, or a list of models alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apportion.router.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from apportion.allocation.models import DescribedModels, ModelSpec
    from apportion.allocation.plan import Plan
    from apportion.allocation.replica import Profile
    from apportion.deployments.config.service import ServiceConfig

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


def check_plan(config: ServiceConfig, plan: Plan) -> None:
    """Refuses a plan whose profiles are of other models than the configuration's, as `check_profiles` does."""
    planned = {model.name for model in plan.models}
    specs = [model.spec() for model in config.models if model.name in planned]
    check_profiles(specs, plan.profiles, by_hand=True)


def check_profiles(specs: Sequence[ModelSpec], profiles: Sequence[Profile], *, by_hand: bool = False) -> None:
    """Refuses profiles of models that are other ones now: source, length, numbers, arguments, `config.json`, engine.

    Args:
        by_hand: whether profiles may leave open what they were made of.

    Raises:
        ConfigurationError: names the model, what has changed, and the mend.
    """
    from apportion.allocation.origin import check_origin, config_hash
    from apportion.deployments.config.models import resolve_source

    for spec in (spec for spec in specs if spec.quota is None):
        own = [profile for profile in profiles if profile.replica.model == spec.name]
        if not by_hand and any(profile.origin is None for profile in own):
            raise ConfigurationError(
                f"model {spec.name!r} has profiles without `origin`, which do not say what they were made of; run "
                "`apportion profile` again"
            )
        digest = config_hash(resolve_source(spec.source), spec.revision) if own else ""
        for profile in own:
            check_origin(profile.origin, profile.source, spec, digest)
