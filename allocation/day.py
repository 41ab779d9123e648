"""Plans over the day: one for each part of it, each close to the one before, and when to begin a change.

The file is YAML: `hours`, a list of `{begins: "07:00", rate_per_s: 12}`, each of which lasts until the next one, the
last until the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from apportion.allocation.cluster import Cluster
from apportion.allocation.models import ModelSpec
from apportion.allocation.near import Moves, moves_between
from apportion.allocation.plan import PlacedReplica, ReplicaBounds
from apportion.allocation.planner import Planned, PlanOptions, make_plan
from apportion.allocation.replica import Profile
from apportion.allocation.workload import Workload
from apportion.allocation.yaml_files import YamlFile
from apportion.router.checked import Section

DAY_MIN = 24 * 60


@dataclass(frozen=True)
class Part:
    """A part of the day: begins_min minutes after midnight, with so many requests/s."""

    begins_min: int
    rate_per_s: float

    @property
    def clock(self) -> str:
        """When it begins, as 07:00."""
        return clock(self.begins_min)


@dataclass(frozen=True)
class StartUp:
    """What it takes until a new replica answers.

    engine_s: to start it once its weights are there; weights_gib_per_s: at which they come, a download or a disk.
    """

    engine_s: float = 60.0
    weights_gib_per_s: float = 1.0

    def seconds(self, profile: Profile) -> float:
        """Of one replica."""
        return self.engine_s + profile.weights_gib / self.weights_gib_per_s


@dataclass(frozen=True, eq=False)
class Turn:
    """A part of the day: its plan, what changes at its beginning, and how long before that the change has to begin."""

    part: Part
    planned: Planned
    moves: Moves
    ahead_s: float

    @property
    def begin(self) -> str:
        """When to begin the change, as 06:57."""
        return clock((self.part.begins_min - math.ceil(self.ahead_s / 60)) % DAY_MIN)


def clock(minutes: int) -> str:
    """Minutes after midnight as 07:00."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def plan_day(
    cluster: Cluster,
    models: Sequence[ModelSpec],
    profiles: Sequence[Profile],
    workload: Workload,
    parts: Sequence[Part],
    options: PlanOptions,
    start_up: StartUp,
    inputs: Mapping[str, str] | None = None,
) -> tuple[Turn, ...]:
    """A plan for each part of the day, each with few moves from the one before; planned from the busiest part on.

    What a busier part needs more is started ahead, so that it answers when the part begins. The busiest part's plan
    has bounds for autoscaling: of each of its types the fewest that any part has, and its own number.
    """
    order = list(range(len(parts)))
    first = max(order, key=lambda i: parts[i].rate_per_s)
    order = order[first:] + order[:first]
    made: dict[int, Planned] = {}
    before: tuple[PlacedReplica, ...] = ()
    for number in order:
        then = workload.at_rate(parts[number].rate_per_s)
        made[number] = make_plan(cluster, models, profiles, then, options, running=before, inputs=inputs)
        before = made[number].plan.placements
    made[first] = replace(made[first], plan=replace(made[first].plan, bounds=_bounds(made, first)))
    turns = []
    for number, part in enumerate(parts):
        planned = made[number]
        moves = moves_between(made[(number - 1) % len(parts)].plan.placements, planned.plan.placements)
        started = [start_up.seconds(planned.plan.profile(one.replica)) for one in moves.started]
        busier = part.rate_per_s > parts[number - 1].rate_per_s
        turns.append(Turn(part, planned, moves, max(started, default=0.0) if busier else 0.0))
    return tuple(turns)


def _bounds(made: Mapping[int, Planned], busiest: int) -> tuple[ReplicaBounds, ...]:
    """Of the busiest part's types, which fit the cluster at once."""
    counts = [planned.plan.counts for planned in made.values()]
    most = made[busiest].plan.counts
    return tuple(ReplicaBounds(one, min(count[one] for count in counts), most[one]) for one in sorted(most))


class _PartEntry(Section):
    begins: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="When it begins, as 07:00.")
    rate_per_s: float = Field(gt=0, description="Requests per second.")


class HoursFile(Section):
    hours: tuple[_PartEntry, ...] = Field(min_length=2, description="Parts of the day, in order.")


def load_hours(path: str | Path) -> tuple[Part, ...]:
    """The parts of the day in a file. Raises ConfigurationError naming file, line and mend."""
    file = YamlFile.read(path)
    entries = file.checked(HoursFile).hours
    parts = tuple(Part(int(e.begins[:2]) * 60 + int(e.begins[3:]), e.rate_per_s) for e in entries)
    for number in range(1, len(parts)):
        if parts[number].begins_min <= parts[number - 1].begins_min:
            raise file.fault(
                ("hours", number, "begins"), f"{parts[number].clock} is not after {parts[number - 1].clock}; sort them"
            )
    return parts
