"""The models that may be deployed, as models.yaml has them.

models:
  - name: large
    source: meta-llama/Llama-3.1-70B-Instruct
    input_usd_per_million: 0.9
    output_usd_per_million: 0.9
    max_model_len: 8192
    min_replicas: 0          # these and what follows may be left out
    max_replicas: 4
    gpu_types: [A100-80GB]
    dtype: bfloat16
    quantisation: null
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from apportion.allocation.gpus import CPU, GPU_TYPES
from apportion.allocation.yaml_files import Section, fault, read_checked
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice

Dtype = Literal["bfloat16", "float16", "float32"]
Quantisation = Literal["fp8", "int8", "int4", "awq", "gptq"]


@dataclass(frozen=True)
class ModelSpec:
    """One model. source: folder or hub id; gpu_types: those it may run on, None: all; max_model_len: tokens.

    Replicas are counted over all types and shares together. max_replicas None: no limit.
    """

    name: str
    source: str
    price: ModelPrice
    min_replicas: int = 0
    max_replicas: int | None = None
    gpu_types: tuple[str, ...] | None = None
    max_model_len: int = 4096
    dtype: str = "bfloat16"
    quantisation: str | None = None

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ConfigurationError(
                f"Model {self.name!r}: max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}."
            )
        for field, kind in (("dtype", Dtype), ("quantisation", Quantisation)):
            value, known = getattr(self, field), get_args(kind)
            if value not in known and not (field == "quantisation" and value is None):
                raise ConfigurationError(f"Model {self.name!r}: {field} {value!r}: use one of {', '.join(known)}.")


def load_models(path: str | Path, gpu_types: Collection[str] | None = None) -> tuple[ModelSpec, ...]:
    """Reads models.yaml. Raises ConfigurationError naming file, line and mend.

    gpu_types: those of the cluster, which a model may name beside those of the built-in table; None: any name will do.
    """
    path = Path(path)
    given = read_checked(path, ModelsFile)
    names: set[str] = set()
    for number, entry in enumerate(given.models):
        if entry.name in names:
            problem = f"the model {entry.name!r} appears twice; give every model its own name."
            raise fault(path, ("models", number, "name"), problem)
        names.add(entry.name)
        for place, name in enumerate(entry.gpu_types or ()):
            if gpu_types is not None and name not in {*GPU_TYPES, CPU, *gpu_types}:
                known = ", ".join(sorted({*GPU_TYPES, CPU, *gpu_types}))
                problem = f"{name!r} is neither a type of the cluster nor of the built-in table; use one of {known}."
                raise fault(path, ("models", number, "gpu_types", place), problem)
    return tuple(entry.spec() for entry in given.models)


class _ModelEntry(Section):
    name: str = Field(min_length=1, description="Name in the API and in the outcomes table.")
    source: str = Field(description="Hugging Face hub id, or a folder.")
    input_usd_per_million: float = Field(ge=0, description="Price of a million input tokens in USD.")
    output_usd_per_million: float = Field(ge=0, description="Price of a million output tokens in USD.")
    max_model_len: int = Field(4096, ge=1, description="Longest prompt plus answer in tokens.")
    min_replicas: int = Field(0, ge=0, description="Replicas that have to run, of whatever type and share.")
    max_replicas: int | None = Field(None, ge=0, description="Most replicas; null: no limit.")
    gpu_types: tuple[str, ...] | None = Field(None, min_length=1, description="Allowed GPU types; null: all.")
    dtype: Dtype = Field("bfloat16", description="Type of weights (unless quantised) and cache.")
    quantisation: Quantisation | None = Field(None, description="Of the weights; null: none.")

    @model_validator(mode="after")
    def _limits_agree(self) -> _ModelEntry:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; raise it")
        return self

    def spec(self) -> ModelSpec:
        return ModelSpec(
            name=self.name,
            source=self.source,
            price=ModelPrice(self.input_usd_per_million, self.output_usd_per_million),
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            gpu_types=self.gpu_types,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            quantisation=self.quantisation,
        )


class ModelsFile(Section):
    models: tuple[_ModelEntry, ...] = Field(min_length=1, description="The models.")
