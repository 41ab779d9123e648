"""Whose text may leave for models that somebody else runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from apportion.deployments.config.keys import Permissions, TenantConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.keys.caller import Caller
from apportion.router.budget import UNNAMED
from apportion.router.variants import covers


@dataclass(frozen=True)
class Outside:
    """Who may use models from outside.

    Args:
        models: all that are served.
        external: those of them that somebody else runs.
        tenants: what is said of tenants, by name.
        otherwise: whether those may of whom nothing is said.
    """

    models: tuple[str, ...]
    external: frozenset[str] = frozenset()
    tenants: Mapping[str, TenantConfig] = field(default_factory=dict)
    otherwise: bool = True

    @classmethod
    def of(cls, config: ServiceConfig) -> Outside:
        """As a service's configuration says: without keys anybody's text may leave, with keys that of whoever may."""
        external = frozenset(model.name for model in config.models if model.external is not None)
        return cls(config.nameable, external, config.tenants, config.keys is None)

    def may_leave(self, permissions: Permissions, tenant: str | None = None) -> bool:
        """Whether text may leave: neither the caller's entry nor its tenant's forbids it, and one of them allows it."""
        of_tenant = self.tenants.get(tenant or UNNAMED, TenantConfig())
        said = [one for one in (permissions.external, of_tenant.external) if one is not None]
        return all(said) if said else self.otherwise

    def inside(self, permissions: Permissions) -> tuple[str, ...]:
        """The caller's models that run here."""
        allowed = self.models if permissions.models is None else permissions.models
        return tuple(name for name in allowed if not covers(self.external, name))

    def kept_in(self, caller: Caller) -> Caller:
        """The caller, who can use no models from outside unless its text may leave."""
        if not self.external or self.may_leave(caller.permissions, caller.account.tenant):
            return caller
        return dataclasses.replace(caller, inside=self.inside(caller.permissions))
