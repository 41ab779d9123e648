"""What an attack is, what its author sees, and what it excuses for how long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.hostile.stage import Stage

NEVER_S = float("inf")


@dataclass(frozen=True)
class Excuse:
    """What innocents may suffer while a part is away, and for how long at the most.

    `lost`: connections that were open through the part break. `lower_rung`: plans without predictor or solver.
    `late`: requests wait for the part. Nothing else, and nothing once `away_s` is over.
    """

    away_s: float
    lost: bool = False
    lower_rung: bool = False
    late: bool = True


@dataclass
class Field:
    """An attack's surroundings: the application, what its author saw, and when the damage was done."""

    stage: Stage
    seen: Counter[str] = field(default_factory=Counter)
    struck_s: float = NEVER_S

    def damaged(self) -> None:
        """The damage is done now."""
        self.struck_s = time.monotonic()


@dataclass(frozen=True)
class Attack:
    """One kind of hostility.

    Args:
        run: does it, blocking.
        ends: what its author may be told: statuses as text, 'lost', or words of its own; empty: anything.
        excuse: where a part is away; None: innocents may not notice.
        always: part of every test run.
    """

    name: str
    run: Callable[[Field], None]
    ends: frozenset[str] = frozenset()
    excuse: Excuse | None = None
    always: bool = False
