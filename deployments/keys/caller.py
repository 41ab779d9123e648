"""Who asks, and what they may ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from apportion.deployments.config.keys import KeyEntry, Permissions
from apportion.deployments.wire.headers import TENANT_HEADER
from apportion.router.batch.messages import RouteItem, RoutingAsk
from apportion.router.budget import UNNAMED, Account
from apportion.router.errors import InvalidRequestError, ModelDeniedError, PermissionDeniedError
from apportion.router.variants import meets

MAX_TENANT_CHARS = 128


def who(account: Account) -> str:
    """A caller, in words for it."""
    return "callers without a key" if account.key is None else "this API key"


@dataclass(frozen=True)
class Caller:
    """Who asks: the account that pays, what it may do, and whether it may see the whole service, or the console.

    inside: its models that run here, where its text may not leave; None: it may.
    """

    account: Account = field(default_factory=Account)
    permissions: Permissions = field(default_factory=Permissions)
    operator: bool = False
    console: bool = False
    inside: tuple[str, ...] | None = None

    @property
    def models(self) -> tuple[str, ...] | None:
        """Models that it may use; None: all."""
        return self.permissions.models if self.inside is None else self.inside

    def may_use(self, model: str) -> bool:
        return self.models is None or meets(self.models, model)

    def check_operator(self) -> None:
        """Raises: PermissionDeniedError: it may not see the whole service."""
        if not self.operator:
            raise PermissionDeniedError("only operators may see this; ask with a key whose entry says `operator: true`")

    def restrict(self, named: str | None, ask: RoutingAsk) -> RoutingAsk:
        """The request's wishes within the models that the caller may use.

        Raises:
            ModelDeniedError: it names a model that it may not use, or leaves none that it may.
        """
        models = self.models
        if models is None:
            return ask
        wanted = (named,) if named is not None else ask.models
        if wanted is not None and not any(meets(models, name) for name in wanted):
            allowed = self.permissions.models
            kept_in = self.inside is not None and (allowed is None or any(meets(allowed, name) for name in wanted))
            outside = "; text may leave only with the permission `external`" if kept_in else ""
            raise ModelDeniedError(
                f"{self.who} may not use {', '.join(wanted)}; it may use {', '.join(models) or 'none'}{outside}",
                param="model" if named is not None else "routing.models",
            )
        if not models:
            raise ModelDeniedError(
                f"{self.who} may use models from outside alone, and text may leave only with the permission `external`",
                param="model",
            )
        return dataclasses.replace(ask, permitted=models)

    def check(self, item: RouteItem) -> None:
        """Raises: PermissionDeniedError: the request asks for more than the caller may; says what that is."""
        may = self.permissions
        if item.priority > may.max_priority:
            raise PermissionDeniedError(
                f"{self.who} may ask for routing.priority {may.max_priority} at most (got {item.priority}); lower it, "
                "or have max_priority raised",
                param="routing.priority",
            )
        strategy = item.ask.strategy
        if strategy is not None and may.strategies is not None and strategy not in may.strategies:
            allowed = f"it may ask for {', '.join(may.strategies)}" if may.strategies else "leave routing.strategy out"
            raise PermissionDeniedError(
                f"{self.who} may not choose the strategy {strategy}; {allowed}", param="routing.strategy"
            )
        if may.max_sequences is not None and item.sequences > may.max_sequences:
            raise PermissionDeniedError(
                f"{self.who} may ask for {may.max_sequences} answers in one request (got {item.sequences}); lower n, "
                "or send several requests",
                param="n",
            )

    def check_route(self) -> None:
        """Raises: PermissionDeniedError: the caller may not have requests planned without their being run."""
        if not self.permissions.route:
            raise PermissionDeniedError(f"{self.who} may not use /v1/route; have its permission `route` set")

    def check_console(self) -> None:
        """Raises: PermissionDeniedError: the caller may not see the console."""
        if not (self.console or self.operator):
            raise PermissionDeniedError(f"{self.who} may not see the console; have its permission `console` set")

    @property
    def who(self) -> str:
        """In words for the caller."""
        return who(self.account)


ANYBODY = Caller(operator=True)  # where there are no keys the service is open


def caller_of(entry: KeyEntry | None, anonymous: Permissions, headers: Mapping[str, str]) -> Caller:
    """Who asks with a key, or without one.

    Raises:
        PermissionDeniedError: the request names a tenant, and its key (or the configuration) does not say that it may.
        InvalidRequestError: the tenant's name is too long, not printable, or reserved.
    """
    permissions = anonymous if entry is None else entry
    own = None if entry is None else entry.tenant
    named = headers.get(TENANT_HEADER)
    if not named or named == own:
        tenant = own
    elif not permissions.tenant_header:
        told = "anonymous.tenant_header: true" if entry is None else "its entry `tenant_header: true`"
        raise PermissionDeniedError(
            f"{TENANT_HEADER}: {who(Account(None if entry is None else entry.name))} may not name a tenant; "
            f"leave the header out, or have the service's operator set {told}"
        )
    elif len(named) > MAX_TENANT_CHARS or not named.isprintable() or named == UNNAMED:
        raise InvalidRequestError(
            f"{TENANT_HEADER}: give at most {MAX_TENANT_CHARS} printable characters, and not {UNNAMED!r}"
        )
    else:
        tenant = named
    if entry is None:
        return dataclasses.replace(ANYBODY, account=Account(tenant=tenant), permissions=permissions)
    return Caller(Account(entry.name, tenant), permissions, entry.operator, entry.console)
