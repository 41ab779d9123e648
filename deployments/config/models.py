"""A served model in the configuration: where it comes from, what it costs, what it runs on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from apportion.allocation.models import COUNTING_ARGUMENTS, ModelDescription, ModelSpec, Quota
from apportion.deployments import zoo
from apportion.deployments.config.capabilities import (
    CAPABILITY_ARGUMENTS,
    DEFAULT_STEP_TOKENS,
    CapabilitiesConfig,
    step_logprobs_fit,
)
from apportion.deployments.config.counting import tokenizer_source
from apportion.deployments.config.external import ExternalConfig
from apportion.deployments.config.replica_groups import ReplicaGroup
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.config.variants import VariantConfig
from apportion.router.batch.capabilities import Capabilities
from apportion.router.batch.policy import ServedModel
from apportion.router.checked import Section, mistakes
from apportion.router.prediction.conversation import template_variables
from apportion.router.prediction.tokens import TokenizerSource
from apportion.router.variants import SEPARATOR, variant_name

AUTO_MODEL = "auto"
ONE_GROUP = "all"  # of a model whose replicas are alike
# What says nothing of a model that somebody else runs.
_OF_OWN_ENGINES = (
    "source", "num_replicas", "min_replicas", "max_replicas", "num_gpus", "replica_groups", "engine_args", "dtype",
    "quantisation", "gpu_types",
)  # fmt: skip
TEMPLATE_VARIABLES = "default_chat_template_kwargs"  # of engine_args
EXTERNAL_CPUS = 0.2  # of what passes bytes on


def resolve_source(source: str) -> str:
    """The absolute path of `zoo:NAME` or of a folder, relative ones to the working directory; a hub id as it is.

    Raises:
        ValueError: the zoo holds nothing of that name.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    in_zoo = zoo.by_prefix(source)
    return str(zoo.folder_of(in_zoo)) if in_zoo.startswith(zoo.PREFIX) else source


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin", "*.pt"))


def _total(limits: Iterable[float | None]) -> float | None:
    """Of all accounts; None where one has no limit that is known."""
    found = list(limits)
    return None if None in found else sum(limit for limit in found if limit is not None)


def _in_the_zoo_or_elsewhere(source: str) -> str:
    resolve_source(source)
    return source


# A hub id, a folder or `zoo:NAME`; only the last is looked up when the configuration is read.
Source = Annotated[str, AfterValidator(_in_the_zoo_or_elsewhere)]


class TimeoutsConfig(Section):
    """How long one engine is waited for, before the request is tried elsewhere."""

    connect_s: float = Field(2.0, gt=0, description="To reach the engine's port.")
    first_token_s: float | None = Field(60.0, gt=0, description="Until a stream's first token; null: no limit.")
    total_s: float | None = Field(None, gt=0, description="Until the end of the answer; null: the request's own time.")
    stall_s: float | None = Field(
        30.0,
        gt=0,
        description="An engine that has requests and shows no progress for so long is asked for one token; if it shows "
        "none for as long again, its replica is replaced. Above the longest single step of the engine; null: never.",
    )


class ModelConfig(ModelDescription):
    """One model, as plans and the service describe it: where it comes from, what it costs, what it runs on."""

    source: Source = Field(
        "",
        description="Hugging Face hub id, a folder (relative ones: to the working directory), or `zoo:NAME`; none of "
        "an external model.",
    )
    engine: Literal["vllm", "simulated", "external"] = Field(
        "vllm", description="What answers: a real engine, none, or somebody else's endpoint."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment of this model's replicas.")
    num_replicas: int = Field(1, ge=1, description="Replicas of the engine.")
    num_gpus: float = Field(0, ge=0, description="GPUs of a replica: a share below 1, or whole ones.")
    num_cpus: float | None = Field(
        None,
        ge=0,
        description=f"CPUs that Ray reserves for a replica; null: 1, of an external model {EXTERNAL_CPUS:g}.",
    )
    max_num_seqs: int = Field(64, ge=1, description="Sequences that a replica runs at once: its slots.")
    timeouts: TimeoutsConfig | None = Field(None, description="Null: those of `dispatch.engine_timeouts`.")
    capabilities: CapabilitiesConfig = Field(
        default_factory=lambda: CapabilitiesConfig(), description="What it can do, where its engine_args do not tell."
    )
    simulated: SimulatedConfig | None = Field(None, description="Timings, for `engine: simulated` only.")
    external: ExternalConfig | None = Field(None, description="Whose it is, for `engine: external` only.")
    variants: tuple[VariantConfig, ...] = Field(
        (),
        description="Ways of asking it, of which each request gets one (docs/variants.md); none: it is asked as it is.",
    )
    replica_groups: tuple[ReplicaGroup, ...] | None = Field(
        None,
        description="Replicas of several kinds, each instead of num_replicas, num_gpus, num_cpus and max_num_seqs; "
        "an empty list: the model is known and has no replica; null: these four fields count.",
    )

    @property
    def columns(self) -> tuple[ModelConfig, ...]:
        """What requests are assigned to: the model itself, or each of its variants, by the variant's name."""
        return tuple(self._asked_as(variant) for variant in self.variants) or (self,)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(variant_name(self.name, variant.name) for variant in self.variants) or (self.name,)

    def _asked_as(self, variant: VariantConfig) -> ModelConfig:
        own = self.prior_success if variant.prior_success is None else variant.prior_success
        name = variant_name(self.name, variant.name)
        return self.model_copy(update={"name": name, "variants": (variant,), "prior_success": own})

    @property
    def max_tokens(self) -> int | None:
        """Of a column: its longest answer; None: what fits."""
        return self.variants[0].max_tokens if self.variants else None

    @property
    def request(self) -> dict[str, Any]:
        """Of a column: the fields that its engine gets with each request."""
        return self.variants[0].request if self.variants else {}

    @property
    def groups(self) -> tuple[ReplicaGroup, ...]:
        """The replicas that the configuration asks for, group by group; a model without groups is one."""
        if self.replica_groups is not None:
            return self.replica_groups
        cpus = self.num_cpus
        if cpus is None:
            cpus = 1 if self.external is None else EXTERNAL_CPUS
        accounts = None if self.external is None else self.external.accounts
        return tuple(
            ReplicaGroup(
                name=name,
                num_replicas=self.num_replicas,
                num_gpus=self.num_gpus,
                num_cpus=cpus,
                max_num_seqs=self.max_num_seqs,
            )
            for name in ([ONE_GROUP] if accounts is None else [account.name for account in accounts])
        )

    @property
    def may_sleep(self) -> bool:
        """Whether it may be without a replica, and gets one when it is asked for."""
        return any(group.min_replicas == 0 for group in self.groups)

    def of_group(self, group: ReplicaGroup) -> ModelConfig:
        """The model as a replica of the group runs it."""
        said: dict[str, Any] = {} if self.dtype is None else {"dtype": self.dtype}
        if self.quantisation == "fp8":  # done while loading; other formats are read from the checkpoint itself
            said["quantization"] = "fp8"
        return self.model_copy(
            update={
                "num_replicas": group.num_replicas,
                "num_gpus": group.num_gpus,
                "num_cpus": group.num_cpus,
                "max_num_seqs": group.max_num_seqs,
                "engine_args": said | self.engine_args | group.engine_args,
                "replica_groups": None,
                "external": None if self.external is None else self.external.of_account(group.name),
            }
        )

    @property
    def all_arguments(self) -> dict[str, Any]:
        """With those of a group: a plan writes the same number format into all of them."""
        return self.engine_args | (self.replica_groups[0].engine_args if self.replica_groups else {})

    def spec(self) -> ModelSpec:
        """The model as a plan knows it; what others run is bought, within the limits of all accounts together."""
        own = self._plain_spec()
        if not self.variants:
            return own
        return replace(own, variants=tuple(column._as_variant_of(own) for column in self.columns))

    def _plain_spec(self) -> ModelSpec:
        own = super().spec()
        if self.external is None:
            return own
        accounts = self.external.accounts or (self.external,)
        quota = Quota(
            max_at_once=self.max_num_seqs * len(accounts),
            requests_per_minute=_total(account.requests_per_minute for account in accounts),
            tokens_per_minute=_total(account.tokens_per_minute for account in accounts),
        )
        return replace(own, source=self.external.tokenizer or "", quota=quota)

    def _as_variant_of(self, own: ModelSpec) -> ModelSpec:
        counting = dict(own.counting)
        if variables := template_variables(self.request):
            counting[TEMPLATE_VARIABLES] = {**counting.get(TEMPLATE_VARIABLES, {}), **variables}
        prior, most = self.prior_success, self.max_tokens
        return replace(own, name=self.name, prior_success=prior, max_tokens=most, counting=counting)

    @property
    def served(self) -> ServedModel:
        """A column as a batch knows it."""
        return ServedModel(
            self.name,
            self.price,
            self.max_model_len,
            capabilities=self.all_capabilities,
            media_tokens=self.capabilities.media_tokens,
            max_tokens=self.max_tokens,
        )

    @property
    def all_capabilities(self) -> Capabilities:
        """All that it can do, stated or told by its arguments."""
        if self.external is not None:
            return self.capabilities.of_endpoints(self.external)
        real = self.engine != "simulated"
        fit = step_logprobs_fit(self.resolved_source, self._step_tokens)
        return self.capabilities.of(self.all_arguments, self.tokenizer_source, real=real, scores_prompts=fit)

    @property
    def _step_tokens(self) -> int:
        """Most tokens of one sequence that an engine reads at once."""
        arguments = [self.engine_args | group.engine_args for group in self.groups]
        steps = [int(one.get("max_num_batched_tokens") or DEFAULT_STEP_TOKENS) for one in arguments]
        return min(max(steps, default=DEFAULT_STEP_TOKENS), self.max_model_len)

    @property
    def resolved_source(self) -> str:
        return resolve_source(self.source)

    @property
    def tokenizer_source(self) -> TokenizerSource:
        """How its engines count tokens."""
        if self.external is not None:
            given = self.external.tokenizer
            return TokenizerSource(None if given is None else resolve_source(given))
        counted = tokenizer_source(self.resolved_source, self.all_arguments)
        return replace(counted, variables={**counted.variables, **template_variables(self.request)})

    @field_validator("source")
    @classmethod
    def _vllm_reads_it(cls, source: str) -> str:
        place = Path(resolve_source(source))
        if place.suffix == ".gguf" or (place.is_dir() and any(place.glob("*.gguf")) and not _has_weights(place)):
            raise ValueError(
                f"{source!r} is in GGUF, which vLLM does not read; turn it into a folder of safetensors "
                "(docs/deployment.md says how), and give that"
            )
        if place.is_file():
            raise ValueError(f"{source!r} is a file; give the folder with the model's config.json")
        return source

    @field_validator("name")
    @classmethod
    def _not_auto(cls, name: str) -> str:
        if name == AUTO_MODEL:
            raise ValueError("`auto` means 'let the router choose'; give the model another name")
        if SEPARATOR in name:
            raise ValueError(f"{SEPARATOR!r} stands between a model and its variant; give the model another name")
        return name

    @field_validator("engine_args")
    @classmethod
    def _no_duplicates(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        owned = {"model", "served_model_name", "max_model_len", "max_num_seqs"} & set(arguments)
        if owned:
            raise ValueError(f"{sorted(owned)} are set by fields of the model; remove them from engine_args")
        return arguments

    @field_validator("variants")
    @classmethod
    def _variants_differ(cls, variants: tuple[VariantConfig, ...]) -> tuple[VariantConfig, ...]:
        names = [variant.name for variant in variants]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names {twice} appear more than once; give every variant of a model its own name")
        return variants

    @model_validator(mode="after")
    def _engine_agrees(self) -> ModelConfig:
        if (self.engine == "simulated") != (self.simulated is not None):
            raise ValueError("`simulated` timings and `engine: simulated` go together; give both or neither")
        if (self.engine == "external") != (self.external is not None):
            raise ValueError("the section `external` and `engine: external` go together; give both or neither")
        if self.external is not None:
            self._external_is_right(self.external)
            return self
        if not self.source:
            raise ValueError("source: missing; name the folder or the hub id that the engine loads")
        can = self.capabilities.of(self.all_arguments, tokenizer_source(self.source, self.engine_args))
        if can.embeddings:
            self._embeds_only(can)
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

    def _external_is_right(self, external: ExternalConfig) -> None:
        known = {name: ModelConfig.model_fields[name] for name in _OF_OWN_ENGINES}
        owned = [name for name in known if getattr(self, name) != known[name].get_default(call_default_factory=True)]
        if owned:
            raise ValueError(
                f"{owned} say nothing of an external model: nothing is loaded, and each of external.accounts is a "
                "replica; remove them"
            )
        shown = sorted(set(self.env) & set(external.variables))
        if shown:
            raise ValueError(f"env: Ray's dashboard shows {shown}; set them where Ray is started")
        if external.tokenizer is not None:
            _in_the_zoo_or_elsewhere(external.tokenizer)
        if (can := self.capabilities.of_endpoints(external)).embeddings:
            self._embeds_only(can)

    def _embeds_only(self, can: Capabilities) -> None:
        if self.variants:
            raise ValueError("variants: a model that makes embeddings answers nothing; remove them")
        if can.chat or can.completions:
            raise ValueError(
                "capabilities.embeddings: an engine makes embeddings or answers; set engine_args.runner: pooling"
            )
        if self.output_usd_per_million or self.prior_success is not None:
            raise ValueError(
                "a model that makes embeddings answers nothing: set output_usd_per_million: 0, and no prior_success"
            )

    def _groups_are_right(self, groups: tuple[ReplicaGroup, ...]) -> None:
        names = [group.name for group in groups]
        if len(set(names)) < len(names):
            raise ValueError(f"replica_groups {names}: every group of a model needs its own name")
        owned = {"num_replicas", "num_gpus", "num_cpus", "max_num_seqs"} & self.model_fields_set
        if owned:
            raise ValueError(f"{sorted(owned)} belong into the replica_groups of this model; remove them beside these")
        sleepers = [group.name for group in groups if group.min_replicas == 0]
        if sleepers and len(groups) > 1:
            raise ValueError(
                f"replica_groups: {sleepers[0]} has min_replicas 0, and nothing would start it while {len(groups) - 1} "
                "more of the model's groups may run; set min_replicas to at least 1, or leave it the only group"
            )
        common = (*COUNTING_ARGUMENTS, *CAPABILITY_ARGUMENTS)
        said = [{name: group.engine_args.get(name) for name in common} for group in groups]
        if any(one != said[0] for one in said):
            raise ValueError(
                f"replica_groups: {', '.join(common)} of all groups must be the same, since prompts are counted and "
                "models chosen before a replica is; set them in the model's engine_args"
            )
        for group in groups:
            try:
                ModelConfig.model_validate(self.of_group(group).model_dump())
            except ValidationError as error:
                raise ValueError(f"replica group {group.name}: {mistakes(error)[0]}") from error

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
