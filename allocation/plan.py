"""The plan: which replica sits on which GPUs, what it was made from, and how good it is proved to be.

A Plan that does not fit its cluster cannot be made: shares on one GPU sum to at most 1, a replica's GPUs are of its
type and in one node.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from apportion.allocation.bill import Bill, Trade
from apportion.allocation.cluster import Cluster
from apportion.allocation.latency import Expected
from apportion.allocation.models import ModelSpec
from apportion.allocation.origin import check_origin
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.room import FreeGpus
from apportion.allocation.yaml_files import utf8_text
from apportion.router.checked import mistakes
from apportion.router.errors import ConfigurationError

VERSION = 1
_FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class PlacedReplica:
    """One replica on GPUs (numbers within the node) of a node."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    replica: ReplicaType
    node: str
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class ModelLoad:
    """What the plan expects of a model. share: of all requests; slots: concurrent sequences over its replicas.

    tokens_per_s: expected demand in output tokens (prompts counted at what they cost to read, in output tokens; of
    models from outside all tokens); capacity_tokens_per_s: over its replicas, or of its quota at this mix, None: no
    limit; utilisation: their ratio, 0 without either.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    model: str
    share: float
    slots: int
    tokens_per_s: float
    capacity_tokens_per_s: float | None

    @property
    def utilisation(self) -> float:
        return self.tokens_per_s / self.capacity_tokens_per_s if self.capacity_tokens_per_s else 0.0


@dataclass(frozen=True)
class ReplicaBounds:
    """Autoscaling bounds of a replica type: what low and high rate need; all maxima fit the cluster at once."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    replica: ReplicaType
    min_replicas: int
    max_replicas: int


@dataclass(frozen=True)
class Assessment:
    """load: times the planned rate and requests at once. quality: mean success, refused requests count as failures.

    refused: share of requests that find no slot, no tokens/s or no money. cost_usd: mean of a request.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    load: float
    quality: float
    refused: float
    cost_usd: float


@dataclass(frozen=True)
class Plan:
    """A placement for a cluster and the numbers that it was made for.

    profiles: of the replica types that are placed. expected_quality: mean success of a request, as the planner
    saw it (robust plans: the lower quantile); expected_cost_usd: mean of a request. objective: expected_quality less
    the price of the GPUs (and moves); bound: no plan has a higher one; gap: (bound - objective) / |objective|.
    budget_usd: mean per request that was allowed, None: no limit; budget_usd_per_hour: for GPUs and bought tokens.
    bill: what they cost; trades: what a GPU more or less would change. rate_per_s: requests per second.
    batch_size: requests that run at once. latencies: of a model's requests. bounds: for autoscaling. assessments: on
    held-out requests. inputs: SHA-256 of what went in, by name. settings: options of the planner.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    cluster: Cluster
    models: tuple[ModelSpec, ...]
    profiles: tuple[Profile, ...]
    placements: tuple[PlacedReplica, ...]
    loads: tuple[ModelLoad, ...]
    expected_quality: float
    expected_cost_usd: float
    objective: float
    bound: float
    gap: float
    budget_usd: float | None
    rate_per_s: float
    batch_size: int
    bounds: tuple[ReplicaBounds, ...] = ()
    assessments: tuple[Assessment, ...] = ()
    latencies: tuple[Expected, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    version: int = VERSION
    budget_usd_per_hour: float | None = None
    bill: Bill | None = None
    trades: tuple[Trade, ...] = ()

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ConfigurationError(f"version: {self.version} is not {VERSION}, which this program reads; plan again")
        check_placements(self.cluster, self.placements)
        known = {model.name: model for model in self.models}
        for profile in self.profiles:
            if profile.replica.model in known:
                check_origin(profile.origin, profile.source, known[profile.replica.model])
        profiled = {profile.replica for profile in self.profiles if profile.fits}
        for placed in self.placements:
            if placed.replica.model not in known:
                raise ConfigurationError(f"the plan places {placed.replica.model!r}, which is none of its models")
            if placed.replica not in profiled:
                raise ConfigurationError(f"the plan places {placed.replica} without a profile that fits; plan again")

    @property
    def counts(self) -> Counter[ReplicaType]:
        """Replicas of each type."""
        return Counter(placed.replica for placed in self.placements)

    @property
    def utilisation(self) -> dict[str, float]:
        """By model: expected demand over capacity in tokens/s."""
        return {load.model: load.utilisation for load in self.loads}

    def profile(self, replica: ReplicaType) -> Profile:
        """Raises ConfigurationError when the plan has none of this type."""
        for profile in self.profiles:
            if profile.replica == replica:
                return profile
        raise ConfigurationError(f"the plan holds no profile of {replica}; plan again")


def check_placements(cluster: Cluster, placements: tuple[PlacedReplica, ...]) -> None:
    """Raises ConfigurationError, naming replica and GPU, where placements do not fit the cluster."""
    room = FreeGpus({node.name: node.n_gpus for node in cluster.nodes})
    for placed in placements:
        replica, node = placed.replica, cluster.node(placed.node)
        if node.gpu_type != replica.gpu_type:
            raise ConfigurationError(f"{replica} is placed on {node.name}, whose GPUs are {node.gpu_type}; plan again")
        if len(set(placed.gpus)) != replica.tensor_parallel or len(placed.gpus) != replica.tensor_parallel:
            raise ConfigurationError(
                f"{replica} is placed on GPUs {list(placed.gpus)} of {node.name}; it needs "
                f"{replica.tensor_parallel} different ones"
            )
        for gpu in placed.gpus:
            if not 0 <= gpu < node.n_gpus:
                raise ConfigurationError(f"{replica} is placed on GPU {gpu} of {node.name}, which has {node.n_gpus}")
        room.take(node.name, placed.gpus, replica.units)
        full = room.overfull(node.name, placed.gpus)
        if full is not None:
            raise ConfigurationError(
                f"GPU {full} of {node.name} is given out {room.used_share(node.name, full):g} times; shares on one GPU "
                "sum to at most 1"
            )


def save_plan(plan: Plan, path: str | Path) -> None:
    """Writes plan.json."""
    Path(path).write_text(json.dumps(plan_json(plan), indent=2) + "\n")


def plan_json(plan: Plan) -> Any:
    """The plan as what JSON holds."""
    return _adapter().dump_python(plan, mode="json")


def load_plan(path: str | Path) -> Plan:
    """Reads plan.json. Raises ConfigurationError naming the file, what is wrong and the mend."""
    path = Path(path)
    try:
        content = json.loads(utf8_text(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); give the path of a plan") from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path}, line {error.lineno}: not JSON ({error.msg}); plan again") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ConfigurationError(f"{path}: version: {version} is not {VERSION}, which this program reads; plan again")
    try:
        return _adapter().validate_python(content)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {mistakes(error)[0]}: plan again, or correct it") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from error


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files, as hexadecimal digits."""
    path = Path(path)
    if path.is_file():
        return sha256(path.read_bytes()).hexdigest()
    digest = sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        digest.update(f"{file.relative_to(path)}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)
