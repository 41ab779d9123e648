"""The configuration's sections on money: where the ledger is, what limits hold, how spending is paced."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from apportion.router.batch.money.spending import Pacing
from apportion.router.budget import UNNAMED, Limit, Pacer, Scope, Window, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.pacers import PACER_OPTIONS_HELP, checked_pacer
from apportion.router.checked import Section, nearest
from apportion.router.errors import ConfigurationError, InvalidRequestError


class LimitConfig(Section):
    """At most so many USD in each window."""

    scope: Scope = Field(description="service, key, tenant, model or job (of bulk).")
    window: Window = Field(description="minute, day, month (calendar, UTC) or total.")
    usd: float = Field(ge=0, le=1e9, allow_inf_nan=False, description="USD in each window; exact to a nano-USD.")
    name: str | None = Field(
        None,
        min_length=1,
        description="The key, tenant or model; null: each of them has this much for itself, as each job has. "
        f"Requests without a tenant are those of the tenant `{UNNAMED}`.",
    )

    @model_validator(mode="after")
    def _service_has_no_name(self) -> LimitConfig:
        if self.scope is Scope.service and self.name is not None:
            raise ValueError("a limit of the whole service has no `name`; remove it, or choose another scope")
        if self.scope is Scope.job and self.name is not None:
            raise ValueError("a limit of jobs holds for each of them and has no `name`; remove it")
        return self

    def limit(self) -> Limit:
        return Limit(self.scope, self.window, to_nano(self.usd), self.name)


def check_names(limits: Iterable[LimitConfig], models: tuple[str, ...], *, with_keys: bool) -> None:
    """Whether there is what the limits hold for, but for the names of keys: those are in the keys' file.

    Args:
        models: that are served.
        with_keys: whether callers have keys.

    Raises:
        ValueError: a limit is of a model that is not served, or of keys where there are none.
    """
    for limit in limits:
        if limit.scope is Scope.model and limit.name is not None and limit.name not in models:
            raise ValueError(f"limits: {limit.name!r} is no model of this service{nearest(limit.name, models)}")
        if limit.scope is Scope.key and not with_keys:
            raise ValueError("limits: `scope: key` needs a `keys` section, else nobody has a key; add one")


class PacingConfig(Section):
    """What a batch may spend of a window's money."""

    mode: Literal["per_batch", "carry_over", "dual_descent", "resolving"] = Field(
        "per_batch",
        description="per_batch: routing.budget_usd_per_request is each batch's cap. The others spread the service's "
        "limit over its window: carry_over evenly, dual_descent and resolving by one learned price for all batches.",
    )
    window: Literal["minute", "day", "month"] = Field("day", description="The service's limit that is spread.")
    options: dict[str, Any] = Field(default_factory=dict, description=f"Options of the mode. {PACER_OPTIONS_HELP}")

    @model_validator(mode="after")
    def _pacer_exists(self) -> PacingConfig:
        if self.mode == "per_batch" and self.options:
            raise ValueError("per_batch takes no options; its cap is routing.budget_usd_per_request")
        self.build()
        return self

    def pacing(self) -> Pacing | None:
        """A new pacer with its window; None for `per_batch`."""
        pacer = self.build()
        return None if pacer is None else Pacing(pacer, Window(self.window))

    def build(self) -> Pacer | None:
        """A new pacer; None for `per_batch`.

        Raises:
            ValueError: an option is unknown or wrong.
        """
        if self.mode == "per_batch":
            return None
        try:
            return checked_pacer(self.mode, self.options)
        except InvalidRequestError as error:
            raise ValueError(error.message) from error


class BudgetConfig(Section):
    """Limits on money that hold across batches and restarts."""

    database: str | None = Field(
        None,
        repr=False,
        description="SQLAlchemy URL of the ledger: sqlite:////path/to/file for one machine, or "
        "postgresql+psycopg://user@host/name (apportion[postgres]). Whoever sees Ray's dashboard sees it: a URL with a "
        "password comes from `database_env` or `database_file`.",
    )
    database_env: str | None = Field(
        None, min_length=1, description="Environment variable of the Router that holds the URL instead."
    )
    database_file: str | None = Field(
        None, min_length=1, description="File on the Router's node that holds the URL instead."
    )
    power_safe: bool = Field(
        False, description="SQLite waits for the disk at each commit: also a power failure loses nothing."
    )
    limits: tuple[LimitConfig, ...] = Field((), description="All of them hold; API keys may bring more.")
    pacing: PacingConfig = Field(default_factory=lambda: PacingConfig(), description="Allowance of a batch.")

    @model_validator(mode="after")
    def _one_database(self) -> BudgetConfig:
        if [self.database, self.database_env, self.database_file].count(None) != 2:
            raise ValueError("the URL comes from `database`, `database_env` or `database_file`: give one of them")
        return self

    @model_validator(mode="after")
    def _paced_limit_exists(self) -> BudgetConfig:
        if self.pacing.mode != "per_batch" and not any(
            limit.scope is Scope.service and limit.window == self.pacing.window for limit in self.limits
        ):
            raise ValueError(
                f"pacing.mode {self.pacing.mode} spreads the service's limit of a {self.pacing.window}; add "
                f"{{scope: service, window: {self.pacing.window}, usd: ...}} to limits"
            )
        return self

    def ledger(self, owner: str | None = None) -> BudgetLedger:
        """Opens the database.

        Args:
            owner: the service whose newest router opens it; see `BudgetLedger`.

        Raises:
            ConfigurationError: its URL is not where it should be, or it cannot be opened.
        """
        return BudgetLedger(self.url(), power_safe=self.power_safe, owner=owner)

    def url(self) -> str:
        """The database's URL, read where it stands; may hold a password.

        Raises:
            ConfigurationError: the variable or the file is not there.
        """
        if self.database is not None:
            return self.database
        if self.database_env is not None:
            if not (found := os.environ.get(self.database_env, "").strip()):
                raise ConfigurationError(
                    f"budget.database_env: {self.database_env} is not set where the router runs; set it before Ray "
                    "starts there"
                )
            return found
        try:
            return Path(str(self.database_file)).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"budget.database_file: {self.database_file} cannot be read on the router's node "
                f"({type(error).__name__}); put it there, or correct the path"
            ) from None
