"""Replica types, what each of them delivers (profiles), and the file that profiles are kept in.

The file is YAML or JSON: `profiles`, a list of entries with the fields of ReplicaType and Profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from apportion.allocation.origin import Origin, OriginEntry
from apportion.allocation.yaml_files import YamlFile
from apportion.router.checked import Section
from apportion.router.errors import ConfigurationError

# Ray counts GPU shares in ten-thousandths.
SHARE_UNITS = 10_000

Source = Literal["computed", "measured"]


@dataclass(frozen=True, order=True)
class ReplicaType:
    """A model on a share of one GPU, or on several whole ones of one node.

    gpu_fraction: in (0, 1], of each GPU, a multiple of 1/10,000; tensor_parallel: GPUs, above 1 only whole ones.
    """

    model: str
    gpu_type: str
    gpu_fraction: float
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        units = self.gpu_fraction * SHARE_UNITS
        if not 0 < self.gpu_fraction <= 1 or abs(units - round(units)) > 1e-6:
            raise ConfigurationError(
                f"gpu_fraction: {self.gpu_fraction} of {self.model!r} is no share of a GPU; give a multiple "
                "of 0.0001 in (0, 1]"
            )
        if self.tensor_parallel < 1 or (self.tensor_parallel > 1 and self.gpu_fraction != 1):
            raise ConfigurationError(
                f"tensor_parallel: {self.tensor_parallel} of {self.model!r} with gpu_fraction {self.gpu_fraction}, but "
                "several GPUs have to be whole ones; set gpu_fraction to 1"
            )

    @property
    def units(self) -> int:
        """Share of each GPU in ten-thousandths."""
        return round(self.gpu_fraction * SHARE_UNITS)

    @property
    def gpus(self) -> float:
        """GPUs that a replica takes."""
        return self.gpu_fraction * self.tensor_parallel

    def __str__(self) -> str:
        share = f"{self.tensor_parallel} x" if self.tensor_parallel > 1 else f"{self.gpu_fraction:g} of"
        return f"{self.model} on {share} {self.gpu_type}"


@dataclass(frozen=True)
class Profile:
    """What one replica of a type delivers.

    fits: weights and the cache for one sequence of the wanted context fit its memory; if not, `reason` says why and
    the other numbers may be 0. max_num_seqs: sequences at once. tokens_per_s: output tokens/s with max_num_seqs
    running. prefill_tokens_per_s: input tokens/s while nothing else runs. first_token_s: for a typical prompt, on an
    idle replica. weights_gib, kv_cache_gib: memory over all its GPUs. decode_curve: (sequences running, output
    tokens/s of all of them), ascending, from 1 to max_num_seqs or further; empty: only tokens_per_s is known.
    prompt_step_s: what a step takes longer because it reads prompts as well, beside their tokens. sequence_gib:
    (tokens of a sequence, GiB of the cache that it takes over all GPUs), ascending, by which a plan finds how many
    sequences of its workload run at once; empty: max_num_seqs stands. origin: what it was
    made of; None: by hand, in a program.
    """

    replica: ReplicaType
    fits: bool
    max_num_seqs: int
    tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float
    weights_gib: float
    kv_cache_gib: float
    source: Source
    reason: str = ""
    decode_curve: tuple[tuple[int, float], ...] = ()
    prompt_step_s: float = 0.0
    sequence_gib: tuple[tuple[int, float], ...] = ()
    origin: Origin | None = None

    def __post_init__(self) -> None:
        rates = (self.tokens_per_s, self.prefill_tokens_per_s)
        if self.fits and (self.max_num_seqs < 1 or not min(rates) > 0):
            raise ConfigurationError(
                f"the profile of {self.replica} fits but has max_num_seqs {self.max_num_seqs}, tokens_per_s "
                f"{rates[0]:g} and prefill_tokens_per_s {rates[1]:g}; all have to be above 0"
            )
        running = [sequences for sequences, _ in self.decode_curve]
        if sorted(set(running)) != running or any(n < 1 or not speed > 0 for n, speed in self.decode_curve):
            raise ConfigurationError(
                f"decode_curve: that of {self.replica} is {list(self.decode_curve)}; give ascending numbers of "
                "sequences, each with tokens/s above 0"
            )
        tokens = [tokens for tokens, _ in self.sequence_gib]
        if sorted(set(tokens)) != tokens or any(not gib > 0 for _, gib in self.sequence_gib):
            raise ConfigurationError(
                f"sequence_gib: that of {self.replica} is {list(self.sequence_gib)}; give ascending numbers of tokens, "
                "each with GiB above 0"
            )


def merge_profiles(*groups: Iterable[Profile]) -> tuple[Profile, ...]:
    """One profile a replica type: measured before computed, of equals the later one; ordered by replica type."""
    best: dict[ReplicaType, Profile] = {}
    for profile in (profile for group in groups for profile in group):
        known = best.get(profile.replica)
        if known is None or not (known.source == "measured" and profile.source == "computed"):
            best[profile.replica] = profile
    return tuple(best[replica] for replica in sorted(best))


def load_profiles(*paths: str | Path) -> tuple[Profile, ...]:
    """The profiles of one or several files, measured before computed.

    Raises ConfigurationError naming file, line and mend.
    """
    return merge_profiles(*(_read(Path(path)) for path in paths))


def save_profiles(profiles: Iterable[Profile], path: str | Path) -> None:
    """Writes JSON where the name ends in .json, else YAML; `load_profiles` reads both."""
    rows = [profile_row(profile) for profile in sorted(profiles, key=lambda p: p.replica)]
    path = Path(path)
    content = {"profiles": rows}
    text = json.dumps(content, indent=2) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text.rstrip() + "\n")


def profile_row(profile: Profile) -> dict[str, Any]:
    """The profile as one flat entry of the file."""
    row = asdict(profile)
    return {**row.pop("replica"), **row}


def _read(path: Path) -> list[Profile]:
    profiles = []
    file = YamlFile.read(path)
    for number, entry in enumerate(file.checked(ProfilesFile).profiles):
        try:
            profiles.append(entry.profile())
        except ConfigurationError as error:
            raise file.fault(("profiles", number), error.message) from error
    return profiles


class ProfileEntry(Section):
    """One profile in a file."""

    model: str = Field(min_length=1, description="Name of the model.")
    gpu_type: str = Field(min_length=1, description="Name of the GPU type.")
    gpu_fraction: float = Field(gt=0, le=1, description="Share of each GPU, a multiple of 0.0001.")
    tensor_parallel: int = Field(1, ge=1, description="GPUs of a replica; above 1 only whole ones.")
    fits: bool = Field(description="Whether the replica can run there at all.")
    max_num_seqs: int = Field(ge=0, description="Sequences at once.")
    tokens_per_s: float = Field(ge=0, description="Output tokens/s with max_num_seqs sequences running.")
    prefill_tokens_per_s: float = Field(ge=0, description="Input tokens/s while nothing else runs.")
    first_token_s: float = Field(ge=0, description="Seconds to the first token of a typical prompt, when idle.")
    weights_gib: float = Field(ge=0, description="Memory of the weights over all GPUs of the replica.")
    kv_cache_gib: float = Field(ge=0, description="Memory of the cache over all GPUs of the replica.")
    source: Source = Field(description="computed or measured.")
    reason: str = Field("", description="Why it does not fit, or how it was found.")
    decode_curve: tuple[tuple[int, float], ...] = Field(
        (), description="Pairs [sequences running, output tokens/s of all of them], ascending."
    )
    prompt_step_s: float = Field(
        0.0, ge=0, description="Seconds that reading prompts adds to a step, beside their tokens."
    )
    sequence_gib: tuple[tuple[int, float], ...] = Field(
        (), description="Pairs [tokens of a sequence, GiB of the cache that it takes over all GPUs], ascending."
    )
    origin: OriginEntry | None = Field(
        None, description="What it was made of. A model that is another one now has to be profiled again."
    )

    def profile(self) -> Profile:
        """Raises ConfigurationError for numbers that do not go together."""
        values = self.model_dump(exclude={"origin"}) | {"origin": self.origin and self.origin.origin()}
        replica = ReplicaType(*(values.pop(name) for name in ("model", "gpu_type", "gpu_fraction", "tensor_parallel")))
        return Profile(replica=replica, **values)


class ProfilesFile(Section):
    profiles: tuple[ProfileEntry, ...] = Field(min_length=1, description="The profiles.")
