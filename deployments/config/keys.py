"""The configuration's section on API keys, and the file that holds them."""

from __future__ import annotations

from pydantic import Field, model_validator

from apportion.router.budget import Limit, Scope, Window, to_nano
from apportion.router.checked import Section


class KeysConfig(Section):
    """Who may use the service."""

    file: str | None = Field(None, description="YAML list of keys (docs/budgets.md); read again when it changes.")
    env: str | None = Field(None, description="Environment variable that holds the same list, as YAML or JSON.")
    tenant_header: str = Field(
        "x-router-tenant", pattern="^[a-z0-9-]+$", description="Request header that names the tenant."
    )

    @model_validator(mode="after")
    def _one_source(self) -> KeysConfig:
        if (self.file is None) == (self.env is None):
            raise ValueError("keys come from `file` or from `env`: give one of them")
        return self


class KeyLimit(Section):
    """At most so many USD in each window, for one key."""

    window: Window = Field(description="minute, day, month (calendar, UTC) or total.")
    usd: float = Field(ge=0, le=1e9, allow_inf_nan=False, description="USD in each window.")


class KeyEntry(Section):
    """One API key; only its hash is kept."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$", description="Name in limits and logs; never the key itself.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hash of the key in hexadecimal: `apportion key NAME`.")
    models: tuple[str, ...] | None = Field(None, min_length=1, description="Models it may use; null: all.")
    requests_per_minute: float | None = Field(None, gt=0, description="Highest rate; null: no limit.")
    tenant: str | None = Field(None, max_length=128, description="Its tenant, whatever the header says.")
    operator: bool = Field(
        False, description="May see the whole service: the numbers at /health, and the header x-router-batch."
    )
    limits: tuple[KeyLimit, ...] = Field((), description="Budgets of this key; they need a `budget` section.")

    def budget_limits(self) -> tuple[Limit, ...]:
        return tuple(Limit(Scope.key, limit.window, to_nano(limit.usd), self.name) for limit in self.limits)
