"""The models that may be deployed, and their one description in YAML.

A model is described the same way in the service's configuration (`serve_config.yaml`) and in a list of models alone:

models:
  - name: large
    source: meta-llama/Llama-3.1-70B-Instruct
    input_usd_per_million: 0.9
    output_usd_per_million: 0.9
    max_model_len: 8192      # this and what follows may be left out
    engine_args: {dtype: bfloat16}
    min_replicas: 0
    max_replicas: 4
    gpu_types: [A100-80GB]

`ModelDescription` holds what a plan has to know. `deployments.config.models.ModelConfig` extends it by what only a
running engine needs: allocation stands below deployments and cannot import from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import Field, model_validator

from apportion.allocation.gpus import CPU, GPU_TYPES
from apportion.allocation.yaml_files import FieldPath, YamlFile
from apportion.router.checked import Section
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice

# Engine arguments that decide how many tokens a prompt has. Replicas of one model must agree in them, since a prompt is
# counted before one is chosen.
COUNTING_ARGUMENTS = (
    "chat_template",
    "chat_template_content_format",
    "default_chat_template_kwargs",
    "revision",
    "skip_tokenizer_init",
    "tokenizer",
    "tokenizer_mode",
    "tokenizer_revision",
    "trust_remote_code",
)
# What a plan decides of vLLM's arguments, and by leaving it out too.
PLANNED_ARGUMENTS = frozenset(
    {
        "distributed_executor_backend",
        "dtype",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "pipeline_parallel_size",
        "quantization",
        "tensor_parallel_size",
    }
)
# What neither speed nor memory depends on, beside the arguments that decide how prompts are counted.
_INDIFFERENT = PLANNED_ARGUMENTS | {
    *COUNTING_ARGUMENTS,
    "enable_auto_tool_choice",
    "generation_config",
    "override_generation_config",
    "reasoning_parser",
    "served_model_name",
    "tool_call_parser",
}
Dtype = Literal["bfloat16", "float16", "float32"]
Quantisation = Literal["fp8", "int8", "int4", "awq", "gptq", "mxfp4", "nvfp4"]
DEFAULT_DTYPE: Dtype = "bfloat16"
# Other names that vLLM has for the same.
_DTYPES: dict[str, Dtype] = {**{name: name for name in get_args(Dtype)}, "half": "float16", "float": "float32"}
_QUANTISATIONS: dict[str, Quantisation] = {
    **{name: name for name in get_args(Quantisation)},
    "auto_awq": "awq",
    "auto_gptq": "gptq",
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "gpt_oss_mxfp4": "mxfp4",
    "modelopt_fp4": "nvfp4",
}
# vLLM's names of checkpoints' formats that say nothing more than the checkpoint itself.
_OF_THE_CHECKPOINT = frozenset(
    {"compressed-tensors", "fbgemm_fp8", "inc", "modelopt", "modelopt_mxfp8", "quark", "torchao"}
)


@dataclass(frozen=True)
class Quota:
    """What a model from outside takes: requests at once, requests and tokens (of prompts and answers) a minute.

    None: without a limit.
    """

    max_at_once: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One model. source: folder or hub id; gpu_types: those it may run on, None: all; max_model_len: tokens.

    Replicas are counted over all types and shares together. max_replicas None: no limit. prior_success: chance of a
    good answer where the predictor does not know the model; None: it gets no requests but those that name it.
    counting: its engine arguments of `COUNTING_ARGUMENTS`. arguments: those that speed and memory depend on beside what
    a plan sets. sizes: given in place of computed ones, as in `SizesEntry`. quota: of a model from outside, which takes
    no GPUs and is paid by its prices, and whose source is that of its tokenizer, or empty; None: an own one.
    variants: ways of asking it, each as a model of its own name and tokens; none: it is asked as it is. max_tokens: of
    its longest answer, None: what fits. prefix_cache_hits: share of prompts' tokens that the prefix cache knows.
    speculative_speedup: of computed speeds.
    """

    name: str
    source: str
    price: ModelPrice
    min_replicas: int = 0
    max_replicas: int | None = None
    gpu_types: tuple[str, ...] | None = None
    max_model_len: int = 4096
    dtype: str = DEFAULT_DTYPE
    quantisation: str | None = None
    prior_success: float | None = None
    counting: Mapping[str, Any] = field(default_factory=dict, hash=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sizes: Mapping[str, float] = field(default_factory=dict, hash=False)
    quota: Quota | None = None
    prefix_cache_hits: float = 0.0
    speculative_speedup: float = 1.0
    variants: tuple[ModelSpec, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ConfigurationError(
                f"model {self.name!r}: max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; "
                "raise it"
            )
        for name, kind in (("dtype", Dtype), ("quantisation", Quantisation)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known and not (name == "quantisation" and value is None):
                raise ConfigurationError(f"model {self.name!r}: {name} {value!r}; use one of {', '.join(known)}")

    @property
    def columns(self) -> tuple[ModelSpec, ...]:
        """What requests are estimated for: its variants, or the model itself."""
        return self.variants or (self,)

    @property
    def revision(self) -> str | None:
        """Of the source; None: its newest."""
        found = self.counting.get("revision")
        return None if found is None else str(found)


class SizesEntry(Section):
    """What is known better than it can be computed; each number replaces the computed one."""

    weights_gib: float | None = Field(None, gt=0, description="All weights, over all GPUs.")
    bits_per_weight: float | None = Field(
        None, gt=0, le=64, description="Of the quantised matrices, with their scales; the others keep the dtype."
    )
    cache_bytes_per_token: float | None = Field(
        None, ge=0, description="What a token takes in the cache of all layers together, on a single GPU."
    )
    state_bytes_per_sequence: float | None = Field(
        None, ge=0, description="What a sequence keeps whatever its length (Mamba, linear attention), on a single GPU."
    )


class ModelDescription(Section):
    """What a plan has to know of a model; `deployments` adds what its engines need."""

    name: str = Field(min_length=1, description="Name in the API and in the outcomes table; `auto` is taken.")
    source: str = Field(description="Hugging Face hub id, or a folder (relative ones: to the project).")
    input_usd_per_million: float = Field(ge=0, description="Price of a million input tokens in USD.")
    output_usd_per_million: float = Field(ge=0, description="Price of a million output tokens in USD.")
    cached_input_usd_per_million: float | None = Field(
        None, ge=0, description="Price of a million input tokens that come from the prefix cache; null: as the others."
    )
    max_model_len: int = Field(4096, ge=1, description="Longest prompt plus answer in tokens.")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="vLLM's engine and server arguments, e.g. `dtype: bfloat16`."
    )
    dtype: Dtype | None = Field(
        None, description="Type of weights (unless quantised) and cache; null: that of engine_args, else bfloat16."
    )
    quantisation: Quantisation | None = Field(
        None, description="Of the weights; null: that of engine_args, else as the checkpoint says."
    )
    sizes: SizesEntry = Field(
        SizesEntry(),
        description="What a plan takes in place of what is computed from config.json.",
    )
    gpu_types: tuple[str, ...] | None = Field(
        None, min_length=1, description="GPU types that a plan may put the model on; null: all."
    )
    min_replicas: int = Field(
        0, ge=0, description="Replicas that a plan has to have, of whatever type and share; without a plan unused."
    )
    max_replicas: int | None = Field(
        None, ge=0, description="Replicas that a plan may have at most; null: no limit; without a plan unused."
    )

    prefix_cache_hits: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the tokens of its prompts that a plan may take from the prefix cache instead of reading "
        "them (vLLM's `prefix_cache_hits` over `prefix_cache_queries`); without a plan unused.",
    )
    speculative_speedup: float = Field(
        1.0,
        ge=1,
        description="How many times as many tokens/s a plan may count on by speculative decoding (that of "
        "engine_args), beside a computed profile, which knows nothing of it; measured ones do; without a plan unused.",
    )
    prior_success: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Chance of a good answer while the predictor knows no outcomes of the model: routed with it, and "
        "with answers as long as the longest of the others'; null: only requests that name the model go to it.",
    )

    @model_validator(mode="after")
    def _limits_agree(self) -> ModelDescription:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; raise it")
        return self

    @model_validator(mode="after")
    def _prices_agree(self) -> ModelDescription:
        try:
            _ = self.price
        except ConfigurationError as error:
            raise ValueError(error.message) from error
        return self

    @model_validator(mode="after")
    def _numbers_agree(self) -> ModelDescription:
        given = self.engine_args
        for name, argument, known in (("dtype", "dtype", _DTYPES), ("quantisation", "quantization", _QUANTISATIONS)):
            own, engines = getattr(self, name), known.get(str(given.get(argument)))
            if own is not None and engines is not None and own != engines:
                raise ValueError(f"{name} {own} and engine_args.{argument} {given[argument]} differ; give one of them")
        return self

    @property
    def price(self) -> ModelPrice:
        return ModelPrice(self.input_usd_per_million, self.output_usd_per_million, self.cached_input_usd_per_million)

    @property
    def all_arguments(self) -> dict[str, Any]:
        """vLLM's arguments of the model's replicas, as far as they say something of all of them."""
        return self.engine_args

    def spec(self) -> ModelSpec:
        """The model as a plan knows it.

        Raises:
            ConfigurationError: engine_args name a quantisation whose size a plan does not know.
        """
        arguments = self.all_arguments
        return ModelSpec(
            name=self.name,
            source=self.source,
            price=self.price,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            gpu_types=self.gpu_types,
            max_model_len=self.max_model_len,
            dtype=self.dtype or _DTYPES.get(str(arguments.get("dtype")), DEFAULT_DTYPE),
            quantisation=self.quantisation or _quantisation(arguments.get("quantization")),
            prior_success=self.prior_success,
            prefix_cache_hits=self.prefix_cache_hits,
            speculative_speedup=self.speculative_speedup,
            counting={name: arguments[name] for name in COUNTING_ARGUMENTS if name in arguments},
            arguments={name: value for name, value in sorted(arguments.items()) if name not in _INDIFFERENT},
            sizes=self.sizes.model_dump(exclude_none=True),
        )


Described = TypeVar("Described", bound=ModelDescription)


class ModelsFile(Section, Generic[Described]):
    """A list of models alone, in a file of its own."""

    models: tuple[Described, ...] = Field(min_length=1, description="The models.")


@dataclass(frozen=True)
class DescribedModels:
    """Models and where they are described. at: the field of the file that lists them."""

    specs: tuple[ModelSpec, ...]
    file: YamlFile
    at: FieldPath

    def fault(self, number: int, at: Sequence[str | int], problem: str) -> ConfigurationError:
        """The error for a field of the model of this number: names file, line, field and mend."""
        return self.file.fault((*self.at, number, *at), problem)


def load_models(
    path: str | Path, gpu_types: Collection[str] | None = None, kind: type[ModelDescription] = ModelDescription
) -> DescribedModels:
    """Reads a file that lists models and nothing else.

    Args:
        gpu_types: those of the cluster, which a model may name beside those of the built-in table; None: any name
            will do.
        kind: how much a model may say of itself.

    Raises:
        ConfigurationError: names file, line, field and mend.
    """
    file = YamlFile.read(path)
    parametrised: type[ModelsFile[Any]] = ModelsFile[kind]  # type: ignore[valid-type]  # a class at run time
    return described(file, ("models",), file.checked(parametrised).models, gpu_types)


def described(
    file: YamlFile, at: FieldPath, models: Sequence[ModelDescription], gpu_types: Collection[str] | None = None
) -> DescribedModels:
    """The models that stand at a field of a file, checked beside each other and beside the cluster's GPU types.

    Raises:
        ConfigurationError: names file, line, field and mend.
    """
    found = DescribedModels((), file, at)
    names: set[str] = set()
    specs = []
    for number, model in enumerate(models):
        if model.name in names:
            raise found.fault(
                number, ("name",), f"the model {model.name!r} appears twice; give every model its own name"
            )
        names.add(model.name)
        _check_types(found, number, model.gpu_types or (), gpu_types)
        try:
            specs.append(model.spec())
        except ConfigurationError as error:
            raise found.fault(number, ("engine_args",), error.message) from error
    return DescribedModels(tuple(specs), file, at)


def _check_types(models: DescribedModels, number: int, named: Sequence[str], gpu_types: Collection[str] | None) -> None:
    if gpu_types is None:
        return
    known = {*GPU_TYPES, CPU, *gpu_types}
    for place, name in enumerate(named):
        if name not in known:
            problem = (
                f"{name!r} is neither a type of the cluster nor of the built-in table; use one of "
                f"{', '.join(sorted(known))}"
            )
            raise models.fault(number, ("gpu_types", place), problem)


def _quantisation(argument: Any) -> Quantisation | None:
    if argument is None or str(argument) in _OF_THE_CHECKPOINT:
        return None
    if str(argument) not in _QUANTISATIONS:
        raise ConfigurationError(
            f"a plan does not know the size of weights under quantization {argument!r}; give `quantisation` beside "
            f"engine_args, one of {', '.join(get_args(Quantisation))}"
        )
    return _QUANTISATIONS[str(argument)]
