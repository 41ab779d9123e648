"""The configuration's section on API keys, the file that holds them, and what callers may do with or without one."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, field_validator, model_validator

from apportion.router.assignment.registry import STRATEGIES
from apportion.router.budget import UNNAMED, Limit, Scope, Window, to_nano
from apportion.router.checked import Section, nearest


class KeysConfig(Section):
    """Who may use the service."""

    file: str | None = Field(None, description="YAML list of keys (docs/budgets.md); read again when it changes.")
    env: str | None = Field(None, description="Environment variable that holds the same list, as YAML or JSON.")

    @model_validator(mode="after")
    def _one_source(self) -> KeysConfig:
        if (self.file is None) == (self.env is None):
            raise ValueError("keys come from `file` or from `env`: give one of them")
        return self


class KeyLimit(Section):
    """At most so many USD in each window, for one key."""

    window: Window = Field(description="minute, day, month (calendar, UTC) or total.")
    usd: float = Field(ge=0, le=1e9, allow_inf_nan=False, description="USD in each window.")


class Permissions(Section):
    """What a caller may do: with an API key, or without where the service asks for none."""

    models: tuple[str, ...] | None = Field(None, min_length=1, description="Models that may answer; null: all.")
    requests_per_minute: float | None = Field(None, gt=0, description="Highest rate; null: no limit.")
    feedback_per_minute: float = Field(600, gt=0, description="Highest rate of calls of /v1/feedback, in requests.")
    max_in_flight: int | None = Field(
        None, ge=1, description="Most requests between their arrival and their end; null: no limit."
    )
    max_sequences: int | None = Field(
        None, ge=1, description="Most answers of a request, `n` times its prompts; null: ingress.bounds.max_sequences."
    )
    max_priority: int = Field(
        0,
        ge=-3,
        le=3,
        description="Highest `routing.priority`, in steps that double a request's weight; above 0 is before others.",
    )
    strategies: tuple[str, ...] | None = Field(
        None, description="Strategies that `routing.strategy` may name; []: none; null: all."
    )
    external: bool | None = Field(
        None,
        description="Whether its text may leave for models that somebody else runs (`engine: external`), named or "
        "chosen; null: as its tenant's entry says, else only where the service asks for no keys.",
    )
    route: bool = Field(True, description="Whether it may call /v1/route, which plans requests and runs none.")
    tenant_header: bool = Field(
        False,
        description="Whether the request header `x-router-tenant` is believed; if not, a request with it gets 403.",
    )

    @field_validator("strategies")
    @classmethod
    def _strategies_exist(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in STRATEGIES:
                raise ValueError(f"strategy {name!r}: unknown{nearest(name, STRATEGIES)}")
        return names

    def check_models(self, served: Iterable[str]) -> None:
        """Raises: ValueError: a model is not served."""
        for name in self.models or ():
            if name not in served:
                raise ValueError(f"models: {name!r} is no model of this service{nearest(name, served)}")


class TenantConfig(Section):
    """What is said of one tenant."""

    external: bool | None = Field(
        None,
        description="Whether its text may leave for models that somebody else runs; where its key's entry says so too, "
        "only if both do; null: as the key's entry says.",
    )


class KeyEntry(Permissions):
    """One API key; only its hash is kept."""

    name: str = Field(
        pattern=r"^[\w.-]{1,64}$",
        description=f"Name in limits and logs; never the key itself, and not `{UNNAMED}`.",
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hash of the key in hexadecimal: `apportion key NAME`.")
    tenant: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description=f"Its tenant; null: `{UNNAMED}`, or what the header says where `tenant_header` is true.",
    )
    operator: bool = Field(
        False, description="May see the whole service: the numbers at /health, and the header x-router-batch."
    )
    console: bool = Field(False, description="May see the page /console; operators may too.")
    limits: tuple[KeyLimit, ...] = Field((), description="Budgets of this key; they need a `budget` section.")

    @model_validator(mode="after")
    def _names_are_its_own(self) -> KeyEntry:
        if UNNAMED in (self.name, self.tenant):
            raise ValueError(f"the name {UNNAMED!r} is that of callers without one; choose another")
        if self.tenant is not None and self.tenant_header:
            raise ValueError("a key has a `tenant` of its own, or `tenant_header: true`: give one of them")
        return self

    def budget_limits(self) -> tuple[Limit, ...]:
        return tuple(Limit(Scope.key, limit.window, to_nano(limit.usd), self.name) for limit in self.limits)
