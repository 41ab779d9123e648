"""What runners of bulk jobs and the Router tell each other, every second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from apportion.router.prices import ModelPrice


@dataclass(frozen=True, slots=True)
class JobTold:
    """How a job stands.

    Args:
        id: of the job.
        status: as the Batch API has it.
        total, completed, failed: rows.
        in_flight: rows that are with the Router or at engines.
        budget_usd: that it may cost; None: no limit of its own.
        planned_usd: that all of it is expected to cost; None: it has no plan yet.
        left_s: until it is expected to be done; None: nobody knows.
        time_s: until its window ends.
        first_answers: rows whose first answer was looked at for how sure its model was.
        asked_on: those of them that a second model has answered.
    """

    id: str
    status: str
    total: int = 0
    completed: int = 0
    failed: int = 0
    in_flight: int = 0
    budget_usd: float | None = None
    planned_usd: float | None = None
    left_s: float | None = None
    time_s: float = 0.0
    first_answers: int = 0
    asked_on: int = 0


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """What a runner tells.

    Args:
        runner: who reports.
        jobs: that it works on.
        haste: 0: its jobs are in time; up to 1: they are behind, and need of the reserve.
    """

    runner: str
    jobs: tuple[JobTold, ...] = ()
    haste: float = 0.0


@dataclass(frozen=True, slots=True)
class BulkState:
    """What the Router tells.

    Args:
        slots: that bulk can have of each model.
        prices: of the models, in the service's order, as rows of jobs pay them.
        tokens_per_s: that a model has generated of late for one request; where that is known.
        spent_nano: what the ledger has of each of the runner's jobs: spent, and set aside.
        reserve: slots of each model that are kept for interactive requests.
        cascade: whether rows may have two answers.
    """

    slots: Mapping[str, int]
    prices: tuple[ModelPrice, ...]
    tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    spent_nano: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    reserve: Mapping[str, int] = field(default_factory=dict)
    cascade: bool = False
