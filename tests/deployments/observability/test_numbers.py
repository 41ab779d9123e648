"""Counting, and how it is told."""

from __future__ import annotations

import random

import pytest

from apportion.deployments.observability import numbers as numbers_module
from apportion.deployments.observability.catalogue import CATALOGUE, NANO, Kind, Metric
from apportion.deployments.observability.numbers import Numbers
from tests.deployments.observability.scraped import Scraped

COUNTED = Metric("things_total", Kind.counter, "Things.", ("kind",))
MONEY = Metric("paid_usd_total", Kind.counter, "Money.", parts=NANO)
LEVEL = Metric("level", Kind.gauge, "A level.", ("of",))
TIMES = Metric("took_seconds", Kind.histogram, "Times.", ("who",), (0.1, 1.0))
METRICS = (COUNTED, MONEY, LEVEL, TIMES)


def scraped(numbers: Numbers) -> Scraped:
    return Scraped(numbers.text().decode())


def test_counters_add_up_and_gauges_are_replaced() -> None:
    numbers = Numbers(METRICS)
    numbers.add(COUNTED, "a")
    numbers.add(COUNTED, "a", by=2)
    numbers.add(COUNTED, "b", by=0)
    numbers.put(LEVEL, {("x",): 1, ("y",): 2})
    numbers.put(LEVEL, {("y",): 3})

    page = scraped(numbers)

    assert page.value("apportion_things_total", kind="a") == 3
    assert page.labels("apportion_things_total", "kind") == {"a", "b"}
    assert page.labels("apportion_level", "of") == {"y"}
    assert page.value("apportion_level", of="y") == 3


@pytest.mark.parametrize("pending", [1, 3, 4096])
def test_histograms_hold_every_value_whenever_they_are_sorted(pending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers_module, "MOST_PENDING", pending)
    numbers = Numbers(METRICS)
    values = [0.05, 0.1, 0.100001, 1.0, 5.0, 0.0]
    for value in values:
        numbers.observe(TIMES, "me", value=value)

    for _ in range(2):  # to be read changes nothing
        page = scraped(numbers)
        found = [page.value("apportion_took_seconds_bucket", le=bound) for bound in ("0.1", "1.0", "+Inf")]
        assert found == [3, 5, 6]
        assert page.value("apportion_took_seconds_count") == 6
        assert page.value("apportion_took_seconds_sum") == pytest.approx(sum(values))


def test_money_is_exact() -> None:
    numbers = Numbers(METRICS)
    parts = [random.Random(1).randrange(1, 10**7) for _ in range(10_000)]
    for nano in parts:
        numbers.add(MONEY, by=nano)

    assert numbers.values(MONEY)[()] == sum(parts)
    assert scraped(numbers).value("apportion_paid_usd_total") == sum(parts) / NANO


def test_values_of_histograms_are_passed_on_once() -> None:
    heard: list[tuple[str, tuple[str, ...], list[float]]] = []
    numbers = Numbers(METRICS, lambda metric, labels, values: heard.append((metric.short, labels, list(values))))
    numbers.observe(TIMES, "me", value=0.5)

    numbers.sort()
    numbers.sort()

    assert heard == [("took_seconds", ("me",), [0.5])]


def test_names_say_what_they_are_and_stand_once() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind is Kind.counter), metric.name
        assert bool(metric.buckets) == (metric.kind is Kind.histogram), metric.name
        assert metric.help.endswith("."), metric.name
        # Nobody's name is a label: there would be as many series as callers.
        assert not {"key", "tenant", "account", "id", "batch"} & set(metric.labels), metric.name
