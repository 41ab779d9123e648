"""The storm in numbers: one dataclass, as JSON and as the table of docs/operations.md."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.client import Outcome
from tests.chaos.kills import Outage
from tests.chaos.plan import Kind


@dataclass(frozen=True)
class Summary:
    """What was sent, what came back, what broke and for how long, and what was left.

    `ends` counts requests by their end; `by_kind` the same for each kind of request. Money is in USD.
    """

    requests: int
    seconds: float
    ends: dict[str, int]
    by_kind: dict[str, dict[str, int]]
    outages_s: dict[str, float | None]
    rungs: dict[str, int]
    compared_answers: int
    deviating_answers: int
    told_usd: float
    spent_usd: float
    memory_mb: dict[str, tuple[int, int]]
    violations: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        """Kinds of requests in rows, ends in columns; refusals share one column, whatever their code."""
        ends = sorted({column(end) for end in self.ends})
        lines = [f"| request | sent | {' | '.join(ends)} |", "|---|" + "---|" * (len(ends) + 1)]
        for kind, counts in {**self.by_kind, "all": self.ends}.items():
            grouped: Counter[str] = Counter()
            for end, count in counts.items():
                grouped[column(end)] += count
            cells = " | ".join(str(grouped[end] or "") for end in ends)
            lines.append(f"| {kind} | {grouped.total()} | {cells} |")
        return "\n".join(lines)


def column(end: str) -> str:
    """The table's column of an end: overload keeps its own, apart from the other refusals."""
    return "refused (4xx)" if end.startswith("4") and end != "429 overloaded" else end


def end_of(outcome: Outcome) -> str:
    """How a request ended, in a few words."""
    if outcome.hung:
        return "hung"
    if outcome.left:
        return "client left"
    error = outcome.error
    if outcome.broken or (outcome.status is not None and outcome.status >= 400 and error is None):
        return "connection lost"
    if outcome.streamed and error is not None:
        return f"error event: {error['code']}"
    return "answered" if outcome.status == 200 else f"{outcome.status} {(error or {}).get('code')}"


def count_ends(outcomes: Sequence[Outcome]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    by_kind: dict[str, Counter[str]] = {kind.value: Counter() for kind in Kind}
    for outcome in outcomes:
        by_kind[outcome.shot.kind.value][end_of(outcome)] += 1
    total = sum(by_kind.values(), Counter())
    return dict(total), {kind: dict(counts) for kind, counts in by_kind.items()}


def outage_seconds(outages: Sequence[Outage]) -> dict[str, float | None]:
    """How long each part was away, the longest of its outages; None: it did not come back in time."""
    longest: dict[str, Any] = {}
    for outage in outages:
        away_s = None if outage.back_s is None else round(outage.back_s - outage.killed_s, 1)
        known = longest.get(outage.part, 0.0)
        longest[outage.part] = None if away_s is None or known is None else max(away_s, known)
    return longest
