"""The attacks as the table of docs/operations.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hostile.verdict import Verdict


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    lines = [
        "| attack | its author was told | innocent requests | p95, quiet 1.0 | harmed | longest after the fault |",
        "|---|---|---|---|---|---|",
    ]
    for verdict in verdicts:
        told = ", ".join(f"{end} {count}×" for end, count in sorted(verdict.seen.items())) or "—"
        ratio = f"{verdict.p95_s / verdict.quiet_p95_s:.1f}" if verdict.quiet_p95_s else ""
        away = "" if verdict.away_s is None else f"{verdict.away_s:g} s"
        harmed = str(len(verdict.complaints)) if verdict.complaints else "none" + " (second try)" * (verdict.tries - 1)
        lines.append(f"| {verdict.attack} | {told} | {verdict.answers} | {ratio} | {harmed} | {away} |")
    return "\n".join(lines)
