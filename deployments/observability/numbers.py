"""The metrics' values, and how Prometheus reads them.

Counting costs an addition or an append: histograms are sorted into their buckets many values at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from apportion.deployments.observability.catalogue import CATALOGUE, Kind, Metric
from apportion.router.arrays import IntArray

Labels = tuple[str, ...]
Observed = Callable[[Metric, Labels, Sequence[float]], None]

MOST_PENDING = 4096  # values of a histogram that wait to be sorted


@dataclass(slots=True)
class _Histogram:
    """Counts by bucket, the last one without a bound, and the values that are not in them yet."""

    counts: IntArray
    total: float = 0.0
    pending: list[float] = field(default_factory=list)


class Numbers(Collector):
    """Of every metric its values, by the values of its labels.

    Args:
        metrics: those that there are.
        on_observed: is told the values of histograms, some time after they were observed.
    """

    def __init__(self, metrics: Iterable[Metric] = CATALOGUE, on_observed: Observed | None = None) -> None:
        self._values: dict[Metric, dict[Labels, float]] = {one: {} for one in metrics if one.kind is not Kind.histogram}
        self._histograms: dict[Metric, dict[Labels, _Histogram]] = {
            one: {} for one in metrics if one.kind is Kind.histogram
        }
        self._on_observed = on_observed
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Counts on, in the metric's parts."""
        values = self._values[metric]
        values[labels] = values.get(labels, 0) + by

    def put(self, metric: Metric, values: Mapping[Labels, float]) -> None:
        """The metric's values from now on, in place of all that it had."""
        self._values[metric] = dict(values)

    def observe(self, metric: Metric, *labels: str, value: float) -> None:
        """One more value of a histogram."""
        histograms = self._histograms[metric]
        histogram = histograms.get(labels)
        if histogram is None:
            histogram = histograms[labels] = _Histogram(np.zeros(len(metric.buckets) + 1, dtype=np.int64))
        histogram.pending.append(value)
        if len(histogram.pending) >= MOST_PENDING:
            self._sort(metric, labels, histogram)

    def values(self, metric: Metric) -> Mapping[Labels, float]:
        """A counter's or a gauge's values, in its parts."""
        return self._values[metric]

    def sort(self) -> None:
        """Sorts what was observed into its buckets."""
        for metric, histograms in self._histograms.items():
            for labels, histogram in histograms.items():
                self._sort(metric, labels, histogram)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """For Prometheus' own registry."""
        self.sort()
        for metric, values in self._values.items():
            kind = CounterMetricFamily if metric.kind is Kind.counter else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                family.add_metric(labels, value / metric.parts)
            yield family
        for metric, histograms in self._histograms.items():
            spread = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
            for labels, histogram in histograms.items():
                counts = np.cumsum(histogram.counts).tolist()
                spread.add_metric(labels, list(zip(bounds, counts, strict=True)), histogram.total)
            yield spread

    def _sort(self, metric: Metric, labels: Labels, histogram: _Histogram) -> None:
        values, histogram.pending = histogram.pending, []
        if values:
            # A value on a bound belongs below it.
            places = np.searchsorted(metric.buckets, values, side="left")
            histogram.counts += np.bincount(places, minlength=len(metric.buckets) + 1)
            histogram.total += sum(values)
            if self._on_observed is not None:
                self._on_observed(metric, labels, values)
