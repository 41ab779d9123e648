"""Grafana's dashboard, made of the catalogue's metrics and of vLLM's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apportion.deployments.observability.catalogue import (
    ASLEEP,
    BATCH_SIZE,
    BATCHES,
    BREAKER_OPEN,
    BUDGET_LEFT,
    BULK_CASCADES,
    BULK_JOBS,
    BULK_LATE,
    BULK_ROWS,
    BULK_SLOTS,
    BULK_SLOTS_USED,
    BUSY,
    CASCADES,
    COST_RATIO,
    ENGINE_PEAK,
    ESTIMATED,
    FALLBACKS,
    FIRST_BYTE_SECONDS,
    IN_FLIGHT,
    JUDGED,
    JUDGED_DEVIATION,
    LEDGER_SECONDS,
    LIMIT_MOST,
    LIMIT_PRICE,
    LIMIT_USED,
    LINK_SECONDS,
    OVERRUNS,
    PARTS_UP,
    PLAN_GAP,
    PLANNED,
    PREDICT_SECONDS,
    QUEUE_LENGTH,
    QUEUE_SECONDS,
    RECORDS_DROPPED,
    REFUSED,
    REPLICAS,
    REQUEST_SECONDS,
    REQUESTS,
    RESERVED,
    RETRIES,
    SHADOW_PRICE,
    SLOT_PRICE,
    SLOTS,
    SLOTS_USED,
    SOLVE_SECONDS,
    SPENT,
    SUCCESS_JUDGED,
    SUCCESS_PREDICTED,
    SUCCESS_SHIFT,
    TOKENS_RATIO,
    TROUBLE,
    UP,
    Metric,
)

UID, TITLE = "apportion", "Apportion"
SCHEMA = 39  # Grafana 10.4
COLUMNS, HEIGHT = 24, 8
RATE = "$__rate_interval"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Args:
        title: what it shows.
        unit: Grafana's name of it.
        queries: PromQL, and the name of each series.
        width: of 24 columns.
        stacked: whether series stand on each other.
        most: of the axis; None: as the values are.
        says: more of what it shows.
    """

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    width: int = 8
    stacked: bool = False
    most: float | None = None
    says: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def _rate(metric: Metric | str, *labels: str, where: str = "") -> str:
    name = metric if isinstance(metric, str) else metric.name
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} (rate({name}{where}[{RATE}]))"


def _quantile(share: float, metric: Metric | str, *labels: str) -> str:
    name = metric if isinstance(metric, str) else metric.name
    return f"histogram_quantile({share}, {_rate(f'{name}_bucket', 'le', *labels)})"


def _mean(metric: Metric) -> str:
    return f"{_rate(f'{metric.name}_sum')} / {_rate(f'{metric.name}_count')}"


ROWS = (
    Row(
        "Service",
        (
            Panel(
                "Requests by outcome",
                "reqps",
                (
                    (_rate(REQUESTS, "outcome"), "{{outcome}}"),
                    (_rate(REFUSED), "refused"),
                ),
                stacked=True,
            ),
            Panel("Refused, by code", "reqps", ((_rate(REFUSED, "code"), "{{code}}"),), stacked=True),
            Panel(
                "Time of a request",
                "s",
                tuple((_quantile(share, REQUEST_SECONDS), f"{share:.0%}") for share in (0.5, 0.95, 0.99)),
            ),
            Panel("First byte, 95 %", "s", ((_quantile(0.95, FIRST_BYTE_SECONDS, "model"), "{{model}}"),)),
            Panel(
                "Where a decision's time goes",
                "s",
                tuple(
                    (_mean(metric), name)
                    for metric, name in (
                        (LINK_SECONDS, "link"),
                        (QUEUE_SECONDS, "queue"),
                        (PREDICT_SECONDS, "predict"),
                        (SOLVE_SECONDS, "solve"),
                        (LEDGER_SECONDS, "ledger"),
                    )
                ),
                stacked=True,
                says="Means. Ledger and solve are a batch's, the others a request's.",
            ),
            Panel(
                "Waiting and in flight",
                "short",
                (
                    (QUEUE_LENGTH.name, "wait for {{wait_for}}"),
                    (IN_FLIGHT.name, "in flight"),
                ),
            ),
            Panel(
                "Attempts that failed and were followed by another",
                "reqps",
                ((_rate(RETRIES, "model"), "{{model}}"), (_rate(BUSY, "model"), "{{model}} busy")),
            ),
            Panel(
                "Cascades: what came of first answers",
                "reqps",
                ((_rate(CASCADES, "model, second, outcome"), "{{model}}>{{second}} {{outcome}}"),),
            ),
            Panel("Parts", "short", ((UP.name, "router"), (PARTS_UP.name, "{{part}}")), most=1),
        ),
    ),
    Row(
        "Money",
        (
            Panel("Spent an hour", "currencyUSD", ((f"3600 * {_rate(SPENT, 'model')}", "{{model}}"),), stacked=True),
            Panel(
                "A thousand answers cost",
                "currencyUSD",
                ((f"""1000 * {_rate(SPENT)} / {_rate(REQUESTS, where='{outcome="answered"}')}""", "USD"),),
            ),
            Panel("Expected cost of what is in flight", "currencyUSD", ((RESERVED.name, "USD"),)),
            Panel(
                "Left of the limits", "percentunit", ((BUDGET_LEFT.name, "{{scope}} {{name}} {{window}}"),), 12, most=1
            ),
            Panel("What one more USD is worth", "short", ((SHADOW_PRICE.name, "of success"),), 6),
            Panel(
                "Requests above their worst case",
                "short",
                (
                    (f"increase({OVERRUNS.name}[1h])", "in an hour"),
                    (f"increase({ESTIMATED.name}[1h])", "{{model}} estimated"),
                ),
                6,
            ),
        ),
    ),
    Row(
        "Models",
        (
            Panel("Planned requests", "reqps", ((_rate(PLANNED, "model"), "{{model}}"),), 6, stacked=True),
            Panel("Slots in use", "percentunit", ((f"{SLOTS_USED.name} / {SLOTS.name}", "{{model}}"),), 6, most=1),
            Panel(
                "Limits on what is in flight",
                "percentunit",
                ((f"{LIMIT_USED.name} / {LIMIT_MOST.name}", "{{limit}}"),),
                6,
                most=1,
            ),
            Panel(
                "What one more slot, or one more of a limit, is worth",
                "short",
                ((SLOT_PRICE.name, "{{model}}"), (LIMIT_PRICE.name, "{{limit}}")),
                6,
            ),
            Panel(
                "Replicas",
                "short",
                (
                    (REPLICAS.name, "{{model}}"),
                    (ASLEEP.name, "{{model}} asleep"),
                    (BREAKER_OPEN.name, "{{model}} left alone"),
                    (TROUBLE.name, "{{model}} {{trouble}}"),
                ),
                16,
            ),
            Panel("Most answers at once on a replica", "short", ((ENGINE_PEAK.name, "{{model}}"),)),
        ),
    ),
    Row(
        "Bulk",
        (
            Panel("Requests of jobs", "short", ((BULK_ROWS.name, "{{state}}"),), 6, stacked=True),
            Panel("Jobs", "short", ((BULK_JOBS.name, "{{status}}"),), 6, stacked=True),
            Panel(
                "Slots that jobs hold",
                "percentunit",
                ((f"{BULK_SLOTS_USED.name} / {BULK_SLOTS.name}", "{{model}}"),),
                6,
                most=1,
            ),
            Panel("The latest job is late by", "s", ((BULK_LATE.name, "s"),), 6),
            Panel("Cascades of jobs", "short", ((BULK_CASCADES.name, "{{state}}"),), 6),
        ),
    ),
    Row(
        "Batches",
        (
            Panel("Batches by rung", "ops", ((_rate(BATCHES, "rung"), "{{rung}}"),), 6, stacked=True),
            Panel(
                "Requests on a lower rung than was asked for",
                "percentunit",
                ((f"{_rate(FALLBACKS, 'rung')} / scalar({_rate(PLANNED)})", "{{rung}}"),),
                6,
                stacked=True,
            ),
            Panel("Size of a batch", "short", ((_mean(BATCH_SIZE), "mean"), (_quantile(0.95, BATCH_SIZE), "95 %")), 6),
            Panel("Gap to the best plan", "percentunit", ((PLAN_GAP.name, "last batch"),), 6),
        ),
    ),
    Row(
        "Expectations",
        (
            Panel("Tokens of answers, of those expected", "percentunit", ((TOKENS_RATIO.name, "{{model}}"),), 6),
            Panel("Cost of answers, of that expected", "percentunit", ((COST_RATIO.name, "{{model}}"),), 6),
            Panel(
                "Success, predicted and judged",
                "percentunit",
                ((SUCCESS_PREDICTED.name, "{{model}} predicted"), (SUCCESS_JUDGED.name, "{{model}} judged")),
                6,
                most=1,
                says="Predictions are of all requests, judgements of those that feedback came for.",
            ),
            Panel("Shift of predictions (PSI)", "short", ((SUCCESS_SHIFT.name, "{{model}}"),), 6),
            Panel("Answers judged of late", "short", ((JUDGED.name, "{{model}}"),), 8),
            Panel(
                "Judged against predicted, in standard deviations",
                "short",
                ((f"abs({JUDGED_DEVIATION.name})", "{{model}}"),),
                8,
            ),
            Panel("Records dropped in an hour", "short", ((f"increase({RECORDS_DROPPED.name}[1h])", "{{kind}}"),), 8),
        ),
    ),
    Row(
        "Engines (vLLM's own metrics, by /metrics/targets)",
        (
            Panel(
                "Sequences",
                "short",
                (
                    ("sum by (model) (vllm:num_requests_running)", "{{model}} run"),
                    ("sum by (model) (vllm:num_requests_waiting)", "{{model}} wait"),
                ),
            ),
            Panel(
                "KV cache in use", "percentunit", (("max by (model) (vllm:kv_cache_usage_perc)", "{{model}}"),), most=1
            ),
            Panel(
                "Generated tokens",
                "ops",
                ((_rate("vllm:generation_tokens_total", "model"), "{{model}}"),),
                stacked=True,
            ),
            Panel(
                "First token, 95 %", "s", ((_quantile(0.95, "vllm:time_to_first_token_seconds", "model"), "{{model}}"),)
            ),
            Panel(
                "Between tokens, 95 %",
                "s",
                ((_quantile(0.95, "vllm:inter_token_latency_seconds", "model"), "{{model}}"),),
            ),
            Panel("Preemptions", "ops", ((_rate("vllm:num_preemptions_total", "model"), "{{model}}"),)),
        ),
    ),
)


def dashboard() -> str:
    """The dashboard as Grafana imports it; it asks for its data source."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": []}
            | {"gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
        )
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x += panel.width
        y += HEIGHT
    found = {
        "uid": UID,
        "title": TITLE,
        "tags": ["apportion", "llm"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(found, indent=1) + "\n"


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    defaults["custom"] = {
        "fillOpacity": 20 if panel.stacked else 0,
        "stacking": {"mode": "normal" if panel.stacked else "none"},
        "showPoints": "never",
    }
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }
