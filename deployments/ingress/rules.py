"""By what an ingress reads requests, the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from apportion.deployments.config.bounds import DEFAULT_BOUNDS, InputBounds
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.naming import plain_name
from apportion.router.budget import Account
from apportion.router.variants import model_of


@dataclass(frozen=True, slots=True)
class Rules:
    """By what requests are read.

    Args:
        models: that are served, and their variants.
        embedders: of these, those that make embeddings.
        aliases: models by other names, which may hold `*`; the first that fits holds.
        bounds: of a request.
        refuse_unknown: fields that mean nothing here; else they are left out.
        session_by_user: a request that names no session belongs to one of its `user`.
        new_name: the name of a request of an account.
        variants: the fields that engines get for variants, by name.
    """

    models: tuple[str, ...]
    embedders: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    bounds: InputBounds = DEFAULT_BOUNDS
    refuse_unknown: bool = False
    session_by_user: bool = False
    new_name: Callable[[Account], str] = plain_name
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def model_of(self, name: str) -> str:
        """The model that a client's name means, or `auto`; the name itself where it is no alias."""
        return next((self.aliases[alias] for alias in self.aliases if fnmatchcase(name, alias)), name)

    @property
    def n_columns(self) -> int:
        """What requests are assigned to: models, or their variants."""
        return len(set(self.models) - set(map(model_of, self.variants)))

    @classmethod
    def of(cls, config: ServiceConfig, new_name: Callable[[Account], str] = plain_name) -> Rules:
        """Those of a configuration."""
        ingress = config.ingress
        return cls(
            config.nameable,
            tuple(model.name for model in config.models if model.all_capabilities.embeddings),
            ingress.model_aliases,
            ingress.bounds,
            refuse_unknown=ingress.unknown_fields == "refuse",
            session_by_user=ingress.session_by_user,
            new_name=new_name,
            variants={column.name: column.request for column in config.columns if column.variants},
        )
