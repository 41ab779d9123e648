"""Prometheus' alert rules, made of the catalogue's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from apportion.deployments.observability.catalogue import (
    ASLEEP,
    BREAKER_OPEN,
    BUDGET_LEFT,
    FALLBACKS,
    JUDGED_DEVIATION,
    OVERRUNS,
    PARTS_UP,
    PLANNED,
    RECORDS_DROPPED,
    REFUSED,
    REPLICAS,
    REQUESTS,
    SUCCESS_JUDGED,
    SUCCESS_SHIFT,
    TOKENS_RATIO,
    TROUBLE,
    UP,
)

HEADING = "# Made by `apportion dashboards`; `promtool check rules` reads it.\n"
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Args:
        name: of the alert.
        expr: true while something is wrong.
        for_s: it has to be wrong for so long, in seconds.
        severity: `page` wakes somebody, `ticket` waits for the morning.
        summary: what is wrong.
        description: what to look at.
    """

    name: str
    expr: str
    for_s: float
    severity: str
    summary: str
    description: str


def alerts(window: str = "5m") -> Sequence[Alert]:
    """All of them.

    Args:
        window: over which rates are taken.
    """
    ended = f"(sum(rate({REQUESTS.name}[{window}])) + sum(rate({REFUSED.name}[{window}])))"
    return (
        Alert(
            "ApportionDown",
            f"{UP.name} == 0 or absent({UP.name})",
            MINUTE_S,
            "page",
            "the router does not answer",
            "Serve replaces a router that hangs within some 30 s. Look at `serve status` and at the log of the Router.",
        ),
        Alert(
            "ApportionFailures",
            f'sum(rate({REQUESTS.name}{{outcome=~"failed|lost"}}[{window}])) / {ended} > 0.05',
            5 * MINUTE_S,
            "page",
            "more than 5 % of the requests fail at their engines",
            f"{BREAKER_OPEN.name} says which models' replicas are left alone; the Engine's log says why.",
        ),
        Alert(
            "ApportionQueueRefuses",
            f'sum(rate({REFUSED.name}{{code="overloaded"}}[{window}])) / {ended} > 0.01',
            5 * MINUTE_S,
            "page",
            "more than 1 % of the requests are refused for want of slots",
            "The queue is full: add replicas, or raise batching.max_queue if callers can wait.",
        ),
        Alert(
            "ApportionRungBelow",
            f"sum(rate({FALLBACKS.name}[{window}])) / sum(rate({PLANNED.name}[{window}])) > 0.05",
            10 * MINUTE_S,
            "ticket",
            "more than 5 % of the requests are planned on a lower rung than was asked for",
            f"{PARTS_UP.name} says which part fails. Rung static: the predictor; price or greedy: the solver.",
        ),
        Alert(
            "ApportionPartDown",
            f"{PARTS_UP.name} == 0",
            5 * MINUTE_S,
            "ticket",
            "the {{ $labels.part }} fails and is left alone",
            "Plans are made without it. Its log says why it fails.",
        ),
        Alert(
            "ApportionBreakerOpen",
            f"{BREAKER_OPEN.name} > 0",
            5 * MINUTE_S,
            "ticket",
            "{{ $value }} replicas of {{ $labels.model }} fail and are left alone",
            "The Engine's log says why; `/health` names the replicas to operators.",
        ),
        Alert(
            "ApportionProviderTrouble",
            f"{TROUBLE.name} > 0",
            2 * MINUTE_S,
            "page",
            "the provider of {{ $labels.model }}: {{ $labels.trouble }}",
            "Its key, its name there or its account is wrong; nothing goes there. See docs/external.md.",
        ),
        Alert(
            "ApportionNoReplica",
            f"{REPLICAS.name} == 0 unless on (model) {ASLEEP.name} == 1",
            5 * MINUTE_S,
            "page",
            "{{ $labels.model }} has no replica",
            "Requests that name it are answered with 503. Look at `serve status`.",
        ),
        Alert(
            "ApportionBudgetLow",
            f"{BUDGET_LEFT.name} < 0.1",
            MINUTE_S,
            "ticket",
            "less than 10 % is left of the limit {{ $labels.scope }} {{ $labels.name }} a {{ $labels.window }}",
            "Requests that need more than is left are refused with 429 until the window ends, or 402.",
        ),
        Alert(
            "ApportionOverruns",
            f"increase({OVERRUNS.name}[1h]) > 0",
            0.0,
            "ticket",
            "requests cost more than their worst case",
            "A limit on money may be exceeded by as much: an engine counts more tokens than the predictor does.",
        ),
        Alert(
            "ApportionLengthsDrift",
            f"{TOKENS_RATIO.name} > 1.9 or {TOKENS_RATIO.name} < 0.55",
            10 * MINUTE_S,
            "ticket",
            "answers of {{ $labels.model }} have {{ $value }} times the tokens that the predictor expects",
            "Expected costs are corrected for twice and half the length, not further. Train the predictor anew.",
        ),
        Alert(
            "ApportionSuccessShift",
            f"{SUCCESS_SHIFT.name} > 0.25",
            10 * MINUTE_S,
            "ticket",
            "requests are not such as the predictor of {{ $labels.model }} was calibrated on",
            "Judge some answers, or record outcomes of such requests, and see whether predictions still hold.",
        ),
        Alert(
            "ApportionCalibrationGap",
            f"abs({JUDGED_DEVIATION.name}) > 4",
            10 * MINUTE_S,
            "ticket",
            "judged answers of {{ $labels.model }} are {{ $value }} standard deviations from what was predicted",
            f"{SUCCESS_JUDGED.name} says how good they are. `apportion calibrate --records` makes another artefact.",
        ),
        Alert(
            "ApportionRecordsDropped",
            f"increase({RECORDS_DROPPED.name}[1h]) > 0",
            0.0,
            "ticket",
            "records were dropped",
            "The store of records does not take them: see its error at `/health`, and the Router's log.",
        ),
    )


def rules(found: Sequence[Alert] | None = None, *, pace: float = 1.0) -> str:
    """Prometheus' file of rules.

    Args:
        found: the alerts; None: all.
        pace: times the time that something has to be wrong.
    """
    group = [_rule(alert, pace) for alert in (alerts() if found is None else found)]
    groups = {"groups": [{"name": "apportion", "rules": group}]}
    return HEADING + yaml.safe_dump(groups, sort_keys=False, width=120)


def _rule(alert: Alert, pace: float) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": f"{alert.for_s * pace:.0f}s",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description},
    }
