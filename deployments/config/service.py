"""The service's configuration: the `args` of the application in `serve_config.yaml`.

Knows the shape and the limits of every field, and which fields must agree; opens no model and starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from apportion.deployments.config.budget import BudgetConfig, check_names
from apportion.deployments.config.bulk import BulkConfig
from apportion.deployments.config.concurrency import ConcurrencyLimitConfig, check_concurrency
from apportion.deployments.config.ingress import IngressConfig
from apportion.deployments.config.keys import KeysConfig, Permissions, TenantConfig
from apportion.deployments.config.metrics import MetricsConfig
from apportion.deployments.config.models import AUTO_MODEL, ModelConfig, Source, TimeoutsConfig, resolve_source
from apportion.deployments.config.records import FeedbackConfig, RecordsConfig
from apportion.deployments.config.routing import BatchingConfig, LivePolicy, RoutingConfig
from apportion.deployments.config.tracing import TracingConfig
from apportion.router.checked import Section, mistakes
from apportion.router.errors import ConfigurationError

Port = Annotated[int, Field(ge=1, le=65535)]


def _checked_range(ports: tuple[int, int] | None, name: str) -> None:
    if ports is not None and ports[0] > ports[1]:
        raise ValueError(f"{name} {list(ports)}: give the lower one first")


class ListeningSection(Section):
    """Of what ingresses call over connections of their own."""

    host: str | None = Field(
        None, description="Address that it listens on for ingresses; null: its node's, which ingresses elsewhere reach."
    )
    ports: tuple[Port, Port] | None = Field(
        None,
        description="First and last port that it listens on for ingresses: two for each replica on a node, since a new "
        "one starts before the last has ended; null: any.",
    )

    @model_validator(mode="after")
    def _ports_are_a_range(self) -> ListeningSection:
        _checked_range(self.ports, "ports")
        return self


class PredictorConfig(ListeningSection):
    """The estimator of success and cost, and where it runs."""

    artefact: Source = Field(description="Folder that `apportion train` wrote, or `zoo:predictor`.")
    encoder: str | None = Field(
        None,
        description="Where the artefact's transformer lies now, a folder or hub id; null: where it lay in training. "
        "Static vectors lie in the artefact and take none.",
    )
    num_gpus: float = Field(0, ge=0, description="Share of a GPU; 0: CPU.")
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves.")
    threads: int = Field(1, ge=1, description="Threads of torch, and of tokenizers, on the CPU.")
    num_replicas: int = Field(
        1,
        ge=1,
        description="Replicas, each of which works on one call at a time, and on long texts beside; with min_replicas, "
        "the most.",
    )
    min_replicas: int | None = Field(
        None,
        ge=1,
        description="Serve scales from these to num_replicas by how much of the time they work; null: always "
        "num_replicas.",
    )
    timeout_s: float = Field(2.0, gt=0, description="Later than this, requests are planned without it.")
    max_call_chars: int = Field(
        1_000_000,
        ge=1_000,
        description="Longest text that is predicted, in characters: a request that has more is planned without a "
        "prediction (rung `static`).",
    )

    @model_validator(mode="after")
    def _least_is_no_more_than_most(self) -> PredictorConfig:
        if self.min_replicas is not None and self.min_replicas > self.num_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above num_replicas {self.num_replicas}; lower it")
        return self

    @property
    def artefact_path(self) -> str:
        return resolve_source(self.artefact)

    @property
    def encoder_source(self) -> str | None:
        return None if self.encoder is None else resolve_source(self.encoder)


class LivePredictor(Section):
    """The artefact of a running service."""

    artefact: Source | None = Field(
        None,
        description="Takes the place of `predictor.artefact` without a restart, as soon as it is loaded; knows the "
        "same of the models that are served. Null: that one again.",
    )


class SolverConfig(Section):
    """The actor that solves a batch."""

    time_limit_s: float = Field(0.5, gt=0, description="Deadline of a batch's solve.")
    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves.")


class RouterConfig(ListeningSection):
    """The actor that owns queue, slots and money."""

    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves.")
    node: str | None = Field(
        None,
        min_length=1,
        description="Node that it runs on, by its label apportion-node or its address; null: any. With SQLite on a "
        "cluster it has to be named, since another node's file knows nothing of what was spent.",
    )


class DispatchConfig(Section):
    """The data path between an ingress and the engines."""

    engine_host: str | None = Field(
        None,
        description="Address that engines listen on; null: their node's, which ingresses elsewhere reach.",
    )
    engine_ports: tuple[Port, Port] | None = Field(
        None,
        description="First and last port that engines listen on, at least as many as replicas on a node; null: any.",
    )
    engine_timeouts: TimeoutsConfig = Field(
        default_factory=lambda: TimeoutsConfig(), description="Of engines that have none of their own."
    )
    request_timeout_s: float = Field(
        300.0, gt=0, description="Longest time of a request, from arrival to end; requests may ask for less."
    )
    retries: int = Field(2, ge=0, le=5, description="New plans for a request whose engine fails before it answers.")
    retry_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the requests that begun work may be retried for; a burst and one a second beside.",
    )
    client_stall_s: float = Field(
        30.0,
        gt=0,
        description="A client that takes nothing of its answer for so long is given up.",
    )
    keep_alive_s: float | None = Field(
        15.0,
        gt=0,
        description="A stream that its engine has begun, and that says nothing for so long, gets an SSE comment, which "
        "keeps connections open on the way; null: never.",
    )

    chunk_gap_ms: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Chunks of a stream that come faster than this go on together; the first one and the end wait for "
        "nothing. 0: each goes on as it comes.",
    )

    @model_validator(mode="after")
    def _ports_are_a_range(self) -> DispatchConfig:
        _checked_range(self.engine_ports, "engine_ports")
        return self


class SessionsConfig(Section):
    """Conversations, which requests name by `routing.session`, `x-session-id` or `prompt_cache_key`."""

    max_sessions: int = Field(100_000, ge=1, description="Conversations that are remembered, the last ones.")
    ttl_s: float = Field(1800.0, gt=0, description="One that is silent for longer is forgotten.")


class RolloutConfig(Section):
    """How a deploy replaces replicas: in whose place a new one is started first, an old one serves until it is ready.

    That needs room for both: a deploy waits for ever where the cluster has none.
    """

    front_surge_percent: int = Field(
        0, ge=0, le=100, description="New replicas of Ingress, Predictor and Solver beyond their number, in percent."
    )
    engine_surge_percent: int = Field(
        0, ge=0, le=100, description="The same of each model's engines, which need GPUs and CPUs that nothing else has."
    )
    await_nodes: bool = Field(
        False,
        description="Nodes may come after the deploy, as pods do: replicas that find no room wait for one. False: a "
        "configuration with replica groups that the nodes at hand have no room for is refused.",
    )


class ServiceConfig(Section):
    """Everything that `apportion.deployments.app:build` needs."""

    models: tuple[ModelConfig, ...] = Field(min_length=1, description="The models, in any order.")
    predictor: PredictorConfig = Field(description="The estimator.")
    routing: RoutingConfig = Field(default_factory=lambda: RoutingConfig(), description="The policy.")
    batching: BatchingConfig = Field(default_factory=lambda: BatchingConfig(), description="The batch window.")
    router: RouterConfig = Field(default_factory=lambda: RouterConfig(), description="The router actor.")
    solver: SolverConfig = Field(default_factory=lambda: SolverConfig(), description="The solver actor.")
    dispatch: DispatchConfig = Field(default_factory=lambda: DispatchConfig(), description="Engines' calls.")
    ingress: IngressConfig = Field(default_factory=lambda: IngressConfig(), description="The HTTP front.")
    sessions: SessionsConfig = Field(default_factory=lambda: SessionsConfig(), description="Conversations.")
    rollout: RolloutConfig = Field(default_factory=lambda: RolloutConfig(), description="How a deploy goes about it.")
    metrics: MetricsConfig = Field(default_factory=lambda: MetricsConfig(), description="What is told of its work.")
    keys: KeysConfig | None = Field(None, description="API keys; null: anyone who reaches the endpoint may use it.")
    anonymous: Permissions = Field(
        default_factory=lambda: Permissions(),
        description="What callers may do, all together, where there are no `keys`.",
    )
    tenants: dict[str, TenantConfig] = Field(
        default_factory=dict, description="By name; requests without a tenant are of `unnamed`."
    )
    budget: BudgetConfig | None = Field(None, description="Limits on money; null: none that outlive a batch.")
    records: RecordsConfig | None = Field(None, description="What is kept of requests; null: nothing.")
    feedback: FeedbackConfig | None = Field(None, description="What callers may say of answers; null: nothing.")
    bulk: BulkConfig | None = Field(None, description="Batches of requests from files; null: none.")
    tracing: TracingConfig | None = Field(None, description="Traces of requests; null: none.")

    @model_validator(mode="after")
    def _names_differ(self) -> ServiceConfig:
        names = self.model_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"model names {twice} appear more than once; every model needs its own name")
        return self

    @model_validator(mode="after")
    def _aliases_are_models(self) -> ServiceConfig:
        served = {AUTO_MODEL, *self.nameable}
        for alias, model in self.ingress.model_aliases.items():
            if model not in served:
                raise ValueError(f"ingress.model_aliases.{alias}: {model!r} is no model; use one of {sorted(served)}")
            hidden = sorted(name for name in served if fnmatchcase(name, alias))
            if hidden:
                raise ValueError(f"ingress.model_aliases.{alias}: hides the model {hidden[0]!r}; narrow it")
        return self

    @model_validator(mode="after")
    def _strategy_fits(self) -> ServiceConfig:
        self.routing.build_strategy(len(self.columns))
        return self

    @model_validator(mode="after")
    def _one_pacing(self) -> ServiceConfig:
        paced = self.budget is not None and self.budget.pacing.mode != "per_batch"
        if paced and self.routing.budget_usd_per_request is not None:
            raise ValueError(
                "routing.budget_usd_per_request is the cap of pacing.mode per_batch; remove it, or choose that mode"
            )
        return self

    @model_validator(mode="after")
    def _callers_are_known(self) -> ServiceConfig:
        if self.keys is not None and self.anonymous != Permissions():
            raise ValueError("anonymous: with `keys` nobody comes in without one; remove this section, or `keys`")
        try:
            self.anonymous.check_models(self.nameable)
        except ValueError as error:
            raise ValueError(f"anonymous.{error}") from error
        if self.budget is not None:
            check_names(self.budget.limits, self.model_names, with_keys=self.keys is not None)
        try:
            self.check_concurrency(self.routing.concurrency_limits)
        except ValueError as error:
            raise ValueError(f"routing.{error}") from error
        return self

    @model_validator(mode="after")
    def _feedback_is_kept(self) -> ServiceConfig:
        if self.feedback is not None and self.records is None:
            raise ValueError("feedback: is kept with `records`; add that section, or remove this one")
        return self

    @model_validator(mode="after")
    def _jobs_have_a_database(self) -> ServiceConfig:
        if self.bulk is not None:
            self.bulk.check_models(self.model_names)
        if self.bulk is not None and self.bulk.folder is None and self.budget is None:
            raise ValueError("bulk: in an object store there is no place for its database; add a `budget` section")
        return self

    def check_concurrency(self, limits: Iterable[ConcurrencyLimitConfig]) -> None:
        """Raises: ValueError: there is no such model, or nobody whom a limit holds for."""
        with_keys = self.keys is not None
        check_concurrency(
            limits, self.nameable, with_keys=with_keys, with_tenants=with_keys or self.anonymous.tenant_header
        )

    @property
    def model_names(self) -> tuple[str, ...]:
        """Of what has replicas, slots and a price."""
        return tuple(model.name for model in self.models)

    @property
    def columns(self) -> tuple[ModelConfig, ...]:
        """What requests are assigned to: models, or their variants."""
        return tuple(column for model in self.models for column in model.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in the order of every array."""
        return tuple(name for model in self.models for name in model.column_names)

    @property
    def nameable(self) -> tuple[str, ...]:
        """What a request may name beside `auto`: models and their variants."""
        return tuple(dict.fromkeys(name for model in self.models for name in (model.name, *model.column_names)))

    @property
    def timeouts(self) -> dict[str, TimeoutsConfig]:
        """Of the columns whose models have some of their own."""
        return {column.name: column.timeouts for column in self.columns if column.timeouts is not None}

    @property
    def signals(self) -> float:
        """Share of requests of which records keep how sure the model was."""
        return 0.0 if self.records is None else self.records.signals


def parse_config(args: dict[str, Any]) -> ServiceConfig:
    """Validates the application's `args`.

    Raises:
        ConfigurationError: names every wrong field, what it holds, and what it should.
    """
    try:
        return ServiceConfig.model_validate(args)
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from error


def live_policy(user_config: dict[str, Any], config: ServiceConfig) -> LivePolicy:
    """The Router's `user_config` over the policy of `args`: what it leaves out is as there.

    Options go with their strategy: those of `args` hold as long as its strategy does.

    Raises:
        ConfigurationError: a field is wrong, or does not go with the rest of the configuration.
    """
    if not isinstance(user_config, dict):
        raise ConfigurationError(f"Router.user_config: a {type(user_config).__name__}; give fields of `routing`")
    of_args = config.routing.model_dump()
    values = of_args | user_config
    options = user_config.get("options", {})
    if values["strategy"] != of_args["strategy"]:
        values["options"] = options
    elif isinstance(options, dict):
        values["options"] = of_args["options"] | options
    try:
        policy = LivePolicy.model_validate(values)
        policy.policy(config.models, ())
        check_names(policy.limits or (), config.model_names, with_keys=config.keys is not None)
        config.check_concurrency(policy.concurrency_limits)
    except (ValueError, ConfigurationError) as error:
        message = _describe(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigurationError(f"Router.user_config: {message}") from error
    budget = config.budget
    if budget is not None and budget.pacing.mode != "per_batch" and policy.budget_usd_per_request is not None:
        raise ConfigurationError(
            f"Router.user_config: budget_usd_per_request is the cap of pacing per_batch, and pacing.mode is "
            f"{budget.pacing.mode}; remove it"
        )
    if budget is None and policy.limits:
        raise ConfigurationError("Router.user_config: limits need a `budget` section with a database")
    unknown = sorted(set(policy.prices) - set(config.model_names))
    if unknown:
        raise ConfigurationError(
            f"Router.user_config: prices of {', '.join(unknown)}, which are not served; correct the names"
        )
    return policy


def live_predictor(user_config: dict[str, Any]) -> LivePredictor:
    """The Predictor's `user_config`.

    Raises:
        ConfigurationError: a field is wrong.
    """
    if not isinstance(user_config, dict):
        raise ConfigurationError(f"Predictor.user_config: a {type(user_config).__name__}; give the field artefact")
    try:
        return LivePredictor.model_validate(user_config)
    except ValidationError as error:
        raise ConfigurationError(f"Predictor.user_config: {_describe(error)}") from error


def _describe(error: ValidationError) -> str:
    """One line a mistake."""
    return "invalid configuration:\n  " + "\n  ".join(map(str, mistakes(error)))
