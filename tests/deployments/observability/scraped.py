"""A page of metrics as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """The samples of one page."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]  # fmt: skip
        self.names = {sample.name for sample in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, and whatever others."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )  # fmt: skip

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label has."""
        return {sample.labels[label] for sample in self.samples if sample.name == name}

    def falls_behind(self, earlier: Scraped) -> list[str]:
        """Counters that are lower here than they were earlier."""
        counters = ("_total", "_bucket", "_count", "_sum")
        return [
            sample.name
            for sample in earlier.samples
            if sample.name.endswith(counters) and self.value(sample.name, **sample.labels) < sample.value
        ]
