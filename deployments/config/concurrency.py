"""Limits on what is in flight: `routing.concurrency_limits`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pydantic import Field, model_validator

from apportion.router.batch.concurrency import ConcurrencyLimit, Counted
from apportion.router.budget import UNNAMED
from apportion.router.checked import Section, nearest


class ConcurrencyLimitConfig(Section):
    """At most so much in flight at once, of some callers on some models together."""

    name: str = Field(
        pattern=r"^[\w.-]{1,64}$", description="It is told by, in messages, metrics, and as a row of a batch's plan."
    )
    of: Counted = Field(
        Counted.slots,
        description="slots: answers, `n` times its prompts of a request; requests; or tokens: of each request the most "
        "that all of its answers can have, `max_tokens` of them or what the context leaves room for.",
    )
    at_most: int | None = Field(None, ge=1, description="Of that, at once; null: `share` says how many.")
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the slots that these models have at the moment, one at least; of limits of slots.",
    )
    models: tuple[str, ...] | None = Field(
        None, min_length=1, description="Where it holds: models, each with all of its variants, or variants. Null: all."
    )
    tenants: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description=f"For whom, all together; requests without a tenant are of `{UNNAMED}`. Null: all.",
    )
    keys: tuple[str, ...] | None = Field(
        None, min_length=1, description="For whom, by names of API keys; beside `tenants` both must hold. Null: all."
    )

    @model_validator(mode="after")
    def _one_number(self) -> ConcurrencyLimitConfig:
        if (self.at_most is None) == (self.share is None):
            raise ValueError("a limit has `at_most` or `share`: give one of them")
        if self.share is not None and self.of is not Counted.slots:
            raise ValueError(f"share: is of slots, and this limit counts {self.of}; give `at_most`, or `of: slots`")
        return self

    def limit(self) -> ConcurrencyLimit:
        return ConcurrencyLimit(self.name, self.of, self.at_most, self.share, self.models, self.tenants, self.keys)


def check_names_differ(limits: Iterable[ConcurrencyLimitConfig]) -> None:
    """Raises: ValueError: two limits have the same name."""
    names = [limit.name for limit in limits]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"concurrency_limits: the name {twice[0]!r} stands twice; give each limit its own")


def check_concurrency(
    limits: Iterable[ConcurrencyLimitConfig], models: Collection[str], *, with_keys: bool, with_tenants: bool
) -> None:
    """Whether there is what the limits hold for, but for what the keys' file says.

    Args:
        models: models and variants that are served.
        with_keys: whether callers have keys.
        with_tenants: whether requests may be of a tenant that has a name.

    Raises:
        ValueError: there is not.
    """
    for limit in limits:
        where = f"concurrency_limits.{limit.name}"
        for name in limit.models or ():
            if name not in models:
                raise ValueError(f"{where}.models: {name!r} is no model of this service{nearest(name, models)}")
        if limit.keys is not None and not with_keys:
            raise ValueError(f"{where}.keys: nobody has a key without a `keys` section; add one, or remove this")
        for name in limit.tenants or ():
            if name != UNNAMED and not with_tenants:
                raise ValueError(
                    f"{where}.tenants: nobody can be of the tenant {name!r}; add `keys` with tenants, or let callers "
                    "name theirs (anonymous.tenant_header)"
                )
