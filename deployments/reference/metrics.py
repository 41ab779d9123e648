"""docs/reference/metrics.md: every metric."""

from __future__ import annotations

from apportion.deployments.observability.catalogue import CATALOGUE
from apportion.deployments.reference.tables import table

INTRODUCTION = """# Metrics

What `GET /metrics` tells, made from the code by `make reference`; how to read it stands in
[observability](../observability.md). Of a histogram NAME Prometheus has `NAME_bucket`, `NAME_sum` and `NAME_count`."""


def metrics_page() -> str:
    """The whole page."""
    rows = [
        [f"`{metric.name}`", metric.kind.value, ", ".join(f"`{label}`" for label in metric.labels), metric.help]
        for metric in CATALOGUE
    ]
    return "\n".join([INTRODUCTION, "", *table(["name", "kind", "labels", "meaning"], rows)]) + "\n"
