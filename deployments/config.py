"""The service's configuration: the `args` of the application in `serve_config.yaml`.

Knows the shape and the limits of every field, and which fields must agree; opens no model and starts nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deployments.bounds import InputBounds
from deployments.budget_config import BudgetConfig, LimitConfig
from deployments.keys_config import KeysConfig
from deployments.strategies import checked_strategy
from router.assignment import STRATEGIES, Strategy
from router.errors import ArtefactError, ConfigurationError, InvalidRequestError
from router.prediction.artefact import read_artefact
from router.prices import ModelPrice

PROJECT_ROOT = Path(__file__).resolve().parent.parent
AUTO_MODEL = "auto"


def resolve_source(source: str) -> str:
    """A folder relative to the working directory or to the project becomes absolute; a hub id stays as it is."""
    for candidate in (Path(source), PROJECT_ROOT / source):
        if candidate.is_dir():
            return str(candidate.resolve())
    return source


class Section(BaseModel):
    """Base of all sections: unknown fields are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedConfig(Section):
    """Timings of a simulated engine; for measuring the router alone."""

    answer: str = Field("simulated answer", description="Text that every request is answered with.")
    tokens: int = Field(16, ge=1, description="Output tokens of an answer (chunks of a stream).")
    first_token_s: float = Field(0.0, ge=0, description="Seconds until the first token.")
    token_s: float = Field(0.0, ge=0, description="Seconds between two tokens.")


class TimeoutsConfig(Section):
    """How long one engine is waited for, before the request is tried elsewhere."""

    connect_s: float = Field(2.0, gt=0, description="To reach the engine's port.")
    first_token_s: float | None = Field(60.0, gt=0, description="Until a stream's first token; null: no limit.")
    total_s: float | None = Field(None, gt=0, description="Until the end of the answer; null: the request's own time.")


class ReplicaGroup(Section):
    """Equal replicas of a model, a Serve deployment of their own; a plan writes them, one a node and share."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Differs within the model; ends the deployment's name.")
    node: str | None = Field(
        None,
        description="Where they run: a node's address, or the value of its label `apportion-node`; null: anywhere.",
    )
    gpus: tuple[int, ...] | None = Field(
        None, description="Numbers of the node's GPUs that each replica of the group uses; null: Ray chooses."
    )
    num_replicas: int = Field(1, ge=1, description="Replicas of the group; with min_replicas, the most.")
    min_replicas: int | None = Field(
        None,
        ge=1,
        description="Serve scales from these to num_replicas by the slots in use; null: always num_replicas.",
    )
    num_gpus: float = Field(0, ge=0, description="GPUs of a replica: a share below 1, or whole ones.")
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves for a replica.")
    max_num_seqs: int = Field(64, ge=1, description="Sequences that a replica runs at once: its slots.")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="vLLM's arguments of these replicas, beside and before the model's."
    )
    placement_group_bundles: tuple[dict[str, float], ...] | None = Field(
        None, description="What Ray reserves for a replica as one group on one node; null: actor by actor."
    )

    @model_validator(mode="after")
    def _bundles_agree(self) -> ReplicaGroup:
        if self.min_replicas is not None and self.min_replicas > self.num_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above num_replicas {self.num_replicas}; lower it")
        if self.placement_group_bundles is not None:
            gpus = sum(bundle.get("GPU", 0) for bundle in self.placement_group_bundles)
            if gpus != self.num_gpus:
                raise ValueError(f"the bundles hold {gpus:g} GPUs and num_gpus is {self.num_gpus:g}; make them equal")
        if self.gpus is not None and (self.node is None or len(set(self.gpus)) != max(1, int(self.num_gpus))):
            raise ValueError(f"gpus {list(self.gpus)}: name the node too, and as many GPUs as a replica takes")
        return self


class ModelConfig(Section):
    """One served model: where it comes from, what it costs, what it runs on."""

    name: str = Field(description="Name in the API; `auto` is taken.", min_length=1)
    source: str = Field(description="Hugging Face hub id, or a folder (relative ones: to the project).")
    input_usd_per_million: float = Field(ge=0, description="Price of a million input tokens in USD.")
    output_usd_per_million: float = Field(ge=0, description="Price of a million output tokens in USD.")
    engine: Literal["vllm", "simulated"] = Field("vllm", description="What answers: a real engine, or none.")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="vLLM's engine and server arguments, e.g. `max_model_len: 4096`."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment of this model's replicas.")
    num_replicas: int = Field(1, ge=1, description="Replicas of the engine.")
    num_gpus: float = Field(0, ge=0, description="GPUs of a replica: a share below 1, or whole ones.")
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves for a replica.")
    max_model_len: int = Field(ge=1, description="Longest prompt plus answer in tokens.")
    max_num_seqs: int = Field(64, ge=1, description="Sequences that a replica runs at once: its slots.")
    timeouts: TimeoutsConfig | None = Field(None, description="Null: those of `dispatch.engine_timeouts`.")
    simulated: SimulatedConfig | None = Field(None, description="Timings, for `engine: simulated` only.")
    replica_groups: tuple[ReplicaGroup, ...] | None = Field(
        None,
        description="Replicas of several kinds, each instead of num_replicas, num_gpus, num_cpus and max_num_seqs; "
        "an empty list: the model is known and has no replica; null: these four fields count.",
    )

    @property
    def groups(self) -> tuple[ReplicaGroup, ...]:
        """The replicas that the configuration asks for, group by group; a model without groups is one."""
        if self.replica_groups is not None:
            return self.replica_groups
        return (
            ReplicaGroup(
                name="all",
                num_replicas=self.num_replicas,
                num_gpus=self.num_gpus,
                num_cpus=self.num_cpus,
                max_num_seqs=self.max_num_seqs,
            ),
        )

    def of_group(self, group: ReplicaGroup) -> ModelConfig:
        """The model as a replica of the group runs it."""
        return self.model_copy(
            update={
                "num_replicas": group.num_replicas,
                "num_gpus": group.num_gpus,
                "num_cpus": group.num_cpus,
                "max_num_seqs": group.max_num_seqs,
                "engine_args": self.engine_args | group.engine_args,
                "replica_groups": None,
            }
        )

    @property
    def price(self) -> ModelPrice:
        return ModelPrice(self.input_usd_per_million, self.output_usd_per_million)

    @property
    def resolved_source(self) -> str:
        return resolve_source(self.source)

    @field_validator("name")
    @classmethod
    def _not_auto(cls, name: str) -> str:
        if name == AUTO_MODEL:
            raise ValueError("`auto` means 'let the router choose'; give the model another name")
        return name

    @field_validator("engine_args")
    @classmethod
    def _no_duplicates(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        owned = {"model", "served_model_name", "max_model_len", "max_num_seqs"} & set(arguments)
        if owned:
            raise ValueError(f"{sorted(owned)} are set by fields of the model; remove them from engine_args")
        return arguments

    @model_validator(mode="after")
    def _shares_agree(self) -> ModelConfig:
        if (self.engine == "simulated") != (self.simulated is not None):
            raise ValueError("`simulated` timings and `engine: simulated` go together; give both or neither")
        if self.replica_groups is not None:
            self._groups_are_right(self.replica_groups)
            return self
        tensor_parallel = int(self.engine_args.get("tensor_parallel_size", 1))
        if tensor_parallel > 1 and self.num_gpus != tensor_parallel:
            raise ValueError(
                f"tensor_parallel_size {tensor_parallel} needs num_gpus: {tensor_parallel}, not {self.num_gpus:g}"
            )
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus {self.num_gpus:g}: above one GPU only whole numbers are possible")
        if 0 < self.num_gpus < 1:
            self._share_is_bounded()
        return self

    def _groups_are_right(self, groups: tuple[ReplicaGroup, ...]) -> None:
        names = [group.name for group in groups]
        if len(set(names)) < len(names):
            raise ValueError(f"replica_groups {names}: every group of a model needs its own name")
        owned = {"num_replicas", "num_gpus", "num_cpus", "max_num_seqs"} & self.model_fields_set
        if owned:
            raise ValueError(f"{sorted(owned)} belong into the replica_groups of this model; remove them beside these")
        for group in groups:
            try:
                ModelConfig.model_validate(self.of_group(group).model_dump())
            except ValidationError as error:
                raise ValueError(f"replica group {group.name}: {error.errors()[0]['msg']}") from error

    def _share_is_bounded(self) -> None:
        # Ray's share limits nothing by itself, and engines that start together on one GPU mis-size their memory.
        utilisation = float(self.engine_args.get("gpu_memory_utilization", 0.9))
        if utilisation > self.num_gpus:
            raise ValueError(
                f"gpu_memory_utilization {utilisation:g} is above the share num_gpus {self.num_gpus:g}; "
                f"set gpu_memory_utilization to at most {self.num_gpus:g}"
            )
        if "kv_cache_memory_bytes" not in self.engine_args:
            raise ValueError(
                "a replica that shares its GPU needs engine_args.kv_cache_memory_bytes; without it engines "
                "that start together size their caches wrongly"
            )


class BatchingConfig(Section):
    """Bounds of a batch; an idle service plans at once."""

    max_batch_size: int = Field(256, ge=1, le=65536, description="Most requests that are planned together.")
    max_wait_ms: float = Field(
        50, gt=0, description="A request that waited this long is planned even while another batch is."
    )
    max_queue: int = Field(4096, ge=1, description="Waiting requests; more are answered with 429.")
    aging_s: float = Field(10.0, gt=0, description="Waiting this long counts as one more of priority.")


class RoutingConfig(Section):
    """The policy; changes without a restart through the Router's `user_config`."""

    strategy: str = Field("mip", description=f"One of {', '.join(sorted(STRATEGIES))}.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the strategy, e.g. `gap`.")
    budget_usd_per_request: float | None = Field(
        None, gt=0, description="A batch may spend this times its requests; null: no limit."
    )

    @model_validator(mode="after")
    def _strategy_exists(self) -> RoutingConfig:
        self.build_strategy()
        return self

    def build_strategy(self) -> Strategy:
        """Raises: ValueError: the strategy or an option of it is unknown or wrong."""
        try:
            return checked_strategy(self.strategy, self.options)
        except InvalidRequestError as error:
            raise ValueError(error.message) from error


class PriceConfig(Section):
    """A model's price."""

    input_usd_per_million: float = Field(ge=0, description="Price of a million input tokens in USD.")
    output_usd_per_million: float = Field(ge=0, description="Price of a million output tokens in USD.")


class LivePolicy(RoutingConfig):
    """The Router's `user_config`: the policy, and what replaces limits and prices of `args` while the service runs."""

    limits: tuple[LimitConfig, ...] | None = Field(None, description="Null: those of `budget.limits`.")
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict, description="By model; the others keep the prices of `models`."
    )


class PredictorConfig(Section):
    """The estimator of success and cost, and where it runs."""

    artefact: str = Field(description="Folder that `apportion train` wrote.")
    encoder: str | None = Field(None, description="Encoder's folder or hub id; null: the artefact's own.")
    num_gpus: float = Field(0, ge=0, description="Share of a GPU; 0: CPU.")
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves.")
    threads: int = Field(1, ge=1, description="Threads of torch on the CPU.")
    timeout_s: float = Field(2.0, gt=0, description="Later than this, the batch is planned without it.")

    @property
    def artefact_path(self) -> str:
        return resolve_source(self.artefact)

    @property
    def encoder_source(self) -> str | None:
        return None if self.encoder is None else resolve_source(self.encoder)


class SolverConfig(Section):
    """The actor that solves a batch."""

    time_limit_s: float = Field(0.5, gt=0, description="Deadline of a batch's solve.")
    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves.")


class RouterConfig(Section):
    """The actor that owns queue, slots and money."""

    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves.")


class DispatchConfig(Section):
    """The data path between an ingress and the engines."""

    engine_host: str | None = Field(
        None,
        description="Address that engines listen on; null: their node's, which ingresses elsewhere reach.",
    )
    engine_timeouts: TimeoutsConfig = Field(
        default_factory=lambda: TimeoutsConfig(), description="Of engines that have none of their own."
    )
    request_timeout_s: float = Field(
        300.0, gt=0, description="Longest time of a request, from arrival to end; requests may ask for less."
    )
    retries: int = Field(2, ge=0, le=5, description="New plans for a request whose engine fails before it answers.")


class IngressConfig(Section):
    """The HTTP front."""

    num_replicas: int = Field(1, ge=1, description="Ingress replicas.")
    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves for one.")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="Larger bodies are answered with 413.")
    bounds: InputBounds = Field(default_factory=lambda: InputBounds(), description="Bounds of a request.")
    max_route_items: int = Field(4096, ge=1, description="Most requests of one call to /v1/route.")


class ServiceConfig(Section):
    """Everything that `deployments.app:build` needs."""

    models: tuple[ModelConfig, ...] = Field(min_length=1, description="The models, in any order.")
    predictor: PredictorConfig = Field(description="The estimator.")
    routing: RoutingConfig = Field(default_factory=lambda: RoutingConfig(), description="The policy.")
    batching: BatchingConfig = Field(default_factory=lambda: BatchingConfig(), description="The batch window.")
    router: RouterConfig = Field(default_factory=lambda: RouterConfig(), description="The router actor.")
    solver: SolverConfig = Field(default_factory=lambda: SolverConfig(), description="The solver actor.")
    dispatch: DispatchConfig = Field(default_factory=lambda: DispatchConfig(), description="Engines' calls.")
    ingress: IngressConfig = Field(default_factory=lambda: IngressConfig(), description="The HTTP front.")
    keys: KeysConfig | None = Field(None, description="API keys; null: anyone who reaches the endpoint may use it.")
    budget: BudgetConfig | None = Field(None, description="Limits on money; null: none that outlive a batch.")

    @model_validator(mode="after")
    def _names_differ(self) -> ServiceConfig:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"model names {twice} appear more than once; every model needs its own name")
        return self

    @model_validator(mode="after")
    def _one_pacing(self) -> ServiceConfig:
        paced = self.budget is not None and self.budget.pacing.mode != "per_batch"
        if paced and self.routing.budget_usd_per_request is not None:
            raise ValueError(
                "routing.budget_usd_per_request is the cap of pacing.mode per_batch; remove it, or choose that mode"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models)


def parse_config(args: dict[str, Any]) -> ServiceConfig:
    """Validates the application's `args`.

    Raises:
        ConfigurationError: names every wrong field, what it holds, and what it should.
    """
    try:
        return ServiceConfig.model_validate(args)
    except ValidationError as error:
        raise ConfigurationError(describe(error)) from error


def mean_success(config: ServiceConfig) -> NDArray[np.float64]:
    """Each model's mean success in the training data, (n_models,): what is left to plan with without a predictor.

    Raises:
        ArtefactError: the artefact is missing, damaged, or was trained for other models.
    """
    description, _ = read_artefact(Path(config.predictor.artefact_path))
    means = {model.name: model.mean_success for model in description.models}
    if set(means) != set(config.names):
        raise ArtefactError(
            f"the predictor at {config.predictor.artefact} was trained for {', '.join(sorted(means))}; the "
            f"configuration has {', '.join(sorted(config.names))}: train it for these, or correct the names"
        )
    return np.array([means[name] for name in config.names])


def describe(error: ValidationError) -> str:
    """One line a mistake: the field's path, what is wrong, and what to do."""
    lines = []
    for mistake in error.errors():
        field = ".".join(str(part) for part in mistake["loc"]) or "(whole)"
        if mistake["type"] == "extra_forbidden":
            lines.append(f"{field}: unknown field; remove it or correct its name")
        elif mistake["type"] == "missing":
            lines.append(f"{field}: missing; add it")
        else:
            lines.append(f"{field}: {mistake['msg']} (got {mistake['input']!r:.80})")
    return "invalid configuration:\n  " + "\n  ".join(lines)
