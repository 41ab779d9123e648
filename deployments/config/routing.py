"""By what batches are collected and planned: the sections `batching` and `routing`, and what changes while it runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from apportion.deployments.config.budget import LimitConfig
from apportion.deployments.config.concurrency import ConcurrencyLimitConfig, check_names_differ
from apportion.deployments.config.models import ModelConfig
from apportion.router.assignment import Strategy
from apportion.router.assignment.options import OPTIONS_HELP, STRATEGY_HELP, checked_strategy
from apportion.router.batch.policy import Policy
from apportion.router.cascade.pair import Pair
from apportion.router.checked import Section
from apportion.router.errors import InvalidRequestError


class BatchingConfig(Section):
    """Bounds of a batch; an idle service plans at once."""

    max_batch_size: int = Field(256, ge=1, le=65536, description="Most requests that are planned together.")
    max_wait_ms: float = Field(
        50, gt=0, description="A request that waited this long is planned even while another batch is."
    )
    max_queue: int = Field(
        4096, ge=1, description="Waiting requests; more are answered with 429, those of whoever has most there first."
    )
    aging_s: float = Field(10.0, gt=0, description="Waiting this long counts as one more of priority.")


class RoutingConfig(Section):
    """The policy; changes without a restart through the Router's `user_config`."""

    strategy: str = Field("mip", description=STRATEGY_HELP)
    options: dict[str, Any] = Field(default_factory=dict, description=f"Options of the strategy. {OPTIONS_HELP}")
    budget_usd_per_request: float | None = Field(
        None,
        gt=0,
        description="What requests may spend on average: a batch may spend this times its requests, and what those "
        "before it have left; null: no limit.",
    )
    pool_requests: int = Field(
        256,
        ge=0,
        description="What so many requests leave of budget_usd_per_request is kept for later ones; 0: every batch is "
        "by itself.",
    )
    long_max_tokens: Literal["clamp", "refuse"] = Field(
        "clamp",
        description="A `max_tokens` above what fits beside the prompt into the chosen model's context: lowered to it, "
        "and told in the header x-router-max-tokens; or no model for the request.",
    )

    stay_value: float = Field(
        0.05,
        ge=0,
        le=1,
        description="What it counts for, in chance of a good answer, that a conversation stays on its model, beside "
        "the input that is cached there.",
    )

    correct_costs: bool = Field(
        True,
        description="Expected costs go by how long each model's last answers were of what was expected, within 0.5 and "
        "2 times.",
    )

    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Models that are expected to answer a request later than this after its arrival are left out for "
        "it, as long as another one is free and can be paid; the fastest one stays; null: time takes no model out.",
    )
    latency_weight_per_s: float = Field(
        0.0,
        ge=0,
        le=1,
        description="What a second of an answer counts for, in chance of a good answer; strategies that maximise the "
        "batch's value know it, those that go by success alone do not.",
    )
    wake_timeout_s: float = Field(
        300.0,
        gt=0,
        description="A request that only a sleeping model (`min_replicas: 0`) may answer waits for it so long, and no "
        "longer than its own time.",
    )
    cascade: bool = Field(
        False,
        description="Whole answers of cheap models are held back, and a dearer model is asked where they are not sure "
        "enough, for the pairs of models that the predictor's artefact has proved to gain by it.",
    )

    concurrency_limits: tuple[ConcurrencyLimitConfig, ...] = Field(
        (), description="On what is in flight. All of them hold; what one holds back waits, as for a slot."
    )

    @model_validator(mode="after")
    def _limits_differ(self) -> RoutingConfig:
        check_names_differ(self.concurrency_limits)
        return self

    @model_validator(mode="after")
    def _strategy_exists(self) -> RoutingConfig:
        self.build_strategy()
        return self

    def policy(
        self, models: Sequence[ModelConfig], by_name_only: Collection[str], pairs: Sequence[Pair] = ()
    ) -> Policy:
        """What batches are planned by, with a column for each model or variant, at the prices in `models`.

        Args:
            by_name_only: columns that get no request that does not name them.
            pairs: of columns whose cascades are proved.
        """
        clamps = self.long_max_tokens == "clamp"
        served = tuple(
            replace(column.served, clamps=clamps, by_name_only=column.name in by_name_only)
            for model in models
            for column in model.columns
        )
        strategy = self.build_strategy(len(served))
        return Policy(
            served,
            strategy,
            self.budget_usd_per_request,
            self.pool_requests,
            stay_value=self.stay_value,
            correct_costs=self.correct_costs,
            max_seconds=self.max_seconds,
            latency_weight_per_s=self.latency_weight_per_s,
            wake_timeout_s=self.wake_timeout_s,
            cascades=tuple(pairs) if self.cascade else (),
        )

    def build_strategy(self, n_models: int | None = None) -> Strategy:
        """Raises: ValueError: the strategy or an option of it is unknown or wrong, or names no model of `n_models`."""
        try:
            return checked_strategy(self.strategy, self.options, n_models)
        except InvalidRequestError as error:
            raise ValueError(error.message) from error


class PriceConfig(Section):
    """A model's price; null: as in `models`."""

    input_usd_per_million: float | None = Field(None, ge=0, description="Price of a million input tokens in USD.")
    output_usd_per_million: float | None = Field(None, ge=0, description="Price of a million output tokens in USD.")
    cached_input_usd_per_million: float | None = Field(
        None, ge=0, description="Price of a million input tokens that come from the prefix cache."
    )


class LivePolicy(RoutingConfig):
    """The policy of the moment, and what replaces limits and prices of `args` while the service runs."""

    limits: tuple[LimitConfig, ...] | None = Field(None, description="Null: those of `budget.limits`.")
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict, description="By model; the others keep the prices of `models`."
    )

    def policy(
        self, models: Sequence[ModelConfig], by_name_only: Collection[str], pairs: Sequence[Pair] = ()
    ) -> Policy:
        """As that of `args`, with the models at the prices of the moment."""
        priced = [
            model.model_copy(update=self.prices[model.name].model_dump(exclude_none=True))
            if model.name in self.prices
            else model
            for model in models
        ]
        return super().policy(priced, by_name_only, pairs)
