"""The metrics among Ray's own, which its agents export: for who reads only those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from apportion.deployments.observability.catalogue import CATALOGUE, Kind, Metric
from apportion.deployments.observability.numbers import Labels, Numbers


class RayBridge:
    """Tells Ray what has changed since it was told last."""

    def __init__(self) -> None:
        self._metrics: dict[Metric, Any] = {one: _of_ray(one) for one in CATALOGUE}
        self._told: dict[tuple[Metric, Labels], float] = {}

    def observed(self, metric: Metric, labels: Labels, values: Sequence[float]) -> None:
        """Values of a histogram."""
        tags = _tags(metric, labels)
        for value in values:
            self._metrics[metric].observe(value, tags=tags)

    def tell(self, numbers: Numbers) -> None:
        """Counters by what they have risen, gauges as they are, and histograms by `observed`."""
        numbers.sort()
        for metric in CATALOGUE:
            if metric.kind is not Kind.histogram:
                for labels, value in numbers.values(metric).items():
                    self._tell(metric, labels, value)

    def _tell(self, metric: Metric, labels: Labels, value: float) -> None:
        tags = _tags(metric, labels)
        if metric.kind is Kind.gauge:
            self._metrics[metric].set(value, tags=tags)
            return
        risen = value - self._told.get((metric, labels), 0)
        self._told[metric, labels] = value
        if risen > 0:
            self._metrics[metric].inc(risen / metric.parts, tags=tags)


def _of_ray(metric: Metric) -> Any:
    if metric.kind is Kind.histogram:
        return Histogram(metric.name, metric.help, boundaries=list(metric.buckets), tag_keys=metric.labels)
    kind = Counter if metric.kind is Kind.counter else Gauge
    return kind(metric.name, metric.help, tag_keys=metric.labels)


def _tags(metric: Metric, labels: Labels) -> dict[str, str]:
    return dict(zip(metric.labels, labels, strict=True))
