"""The Router's metrics by its real parts: their sums are what clients were told and what was spent."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.observability.catalogue import CATALOGUE, Kind
from apportion.deployments.wire.bulk import JobTold, RunnerReport
from apportion.router.batch.messages import Done, Ending, Report, RouteItem
from tests.deployments.control.test_router_events import COURSE
from tests.deployments.local_router import NAMES, DearIsGood, LocalService, configuration
from tests.deployments.observability.scraped import Scraped

LIMITS = [
    {"scope": "service", "window": "day", "usd": 1.0},
    {"scope": "model", "name": "heron", "window": "month", "usd": 0.5},
]

FEW = {"name": "few", "of": "tokens", "at_most": 1000, "models": ["heron"]}


class Silent(DearIsGood):
    """Predicts nothing."""

    def predict(self, *_: Any) -> Any:
        raise ConnectionError("gone")


async def scrape(service: LocalService) -> Scraped:
    return Scraped((await service.router.metrics()).decode())


async def run(service: LocalService, ids: range, **how: Any) -> Counter[str]:
    names = [f"r{number}" for number in ids]
    return Counter(await asyncio.gather(*(service.run(RouteItem(one, max_tokens=10), **how) for one in names)))


async def test_sums_are_what_was_answered_and_what_was_spent(tmp_path: Path) -> None:
    service = LocalService(configuration(tmp_path / "ledger.db", budget={"limits": LIMITS}))
    await service.announce()

    answers = await run(service, range(40))
    await service.idle_state()
    before = await scrape(service)
    answers += await run(service, range(40, 60))
    state = await service.idle_state()
    page = await scrape(service)
    await service.close()

    for model in NAMES:
        assert page.value("apportion_requests_total", model=model) == answers[model]
        assert page.value("apportion_planned_requests_total", model=model) == answers[model]
    spent_nano = round(page.value("apportion_spent_usd_total") * 1e9)
    assert spent_nano == round(state["budget"]["spent_usd"] * 1e9) == round(service.generated_usd * 1e9)
    assert page.value("apportion_queue_seconds_count") == 60
    assert page.value("apportion_batch_size_sum") == 60
    assert page.value("apportion_batches_total", strategy="mip", rung="mip") == page.value("apportion_batch_size_count")
    assert page.value("apportion_budget_left_ratio", scope="service") == pytest.approx(1 - spent_nano / 1e9)
    assert page.labels("apportion_budget_left_ratio", "name") == {"", "heron"}
    assert page.falls_behind(before) == []
    assert before.value("apportion_requests_total") == 40


async def test_every_metric_of_the_catalogue_is_told_with_its_labels(tmp_path: Path) -> None:
    service = LocalService(
        configuration(tmp_path / "ledger.db", budget={"limits": LIMITS}, routing={"concurrency_limits": [FEW]})
    )
    await service.announce()
    await run(service, range(3))
    await service.link.plan(RouteItem("ends", max_tokens=10))
    service.link.finish(Done("ends", 1e-6, Ending.answered, replace(COURSE, output_tokens=5)))
    await service.router.bulk(
        RunnerReport("runner", (JobTold("job", "in_progress", 10, 4, 1, 2, None, None, 9.0, 2.0, 4, 3),))
    )
    await service.idle_state()
    page = await scrape(service)
    await service.close()

    assert page.value("apportion_bulk_rows", state="left") == 3
    assert page.value("apportion_bulk_late_seconds") == 7
    assert page.value("apportion_bulk_cascades", state="first_answers") == 4
    assert page.value("apportion_bulk_cascades", state="asked_on") == 3
    # Nothing has failed or cascaded, nothing is recorded or judged, and for a shift there are too few requests.
    without_a_value = {
        f"apportion_{name}"
        for name in (
            "cascades_total",
            "fallback_requests_total",
            "provider_trouble",
            "refused_total",
            "records_dropped_total",
            "success_judged",
            "success_shift",
        )
    }
    for metric in CATALOGUE:
        for name in set(metric.series) - without_a_value:
            assert name in page.names, name
            extra = {"le"} if name.endswith("_bucket") else set()
            labels = next(set(sample.labels) for sample in page.samples if sample.name == name)
            assert labels == set(metric.labels) | extra, name
    assert page.value("apportion_up") == 1
    assert page.value("apportion_slots", model="wren") == 64
    assert page.value("apportion_slots_used") == 0
    assert page.labels("apportion_parts_up", "part") == {"predictor", "solver"}


async def test_labels_are_of_the_configuration_whatever_callers_say() -> None:
    service = LocalService(configuration(None))
    await service.announce()
    await asyncio.gather(
        *(service.run(RouteItem(f"r{n}", model=f"mine-{n}", max_tokens=10)) for n in range(20)),
        *(service.run(RouteItem(f"s{n}", session=f"session-{n}", max_tokens=10)) for n in range(20)),
    )
    page = await scrape(service)
    await service.close()

    known = {*NAMES, "answered", "mip", "slot", "money", "model", "bulk", "predictor", "solver"}
    known |= {"completed", "failed", "in_flight", "left", "first_answers", "asked_on"}
    for sample in page.samples:
        assert {value for label, value in sample.labels.items() if label != "le"} <= known, sample


async def test_what_ends_unserved_is_counted_by_its_code() -> None:
    service = LocalService(configuration(None))
    await service.router.exchange(Report("i", 1, unserved={"overloaded": 2, "client_gone": 1}), False)
    await service.router.exchange(Report("i", 2, unserved={"overloaded": 5, "client_gone": 1}), False)
    page = await scrape(service)
    await service.close()

    assert page.value("apportion_refused_total", code="overloaded") == 5
    assert page.value("apportion_refused_total", code="client_gone") == 1


async def test_a_plan_without_predictions_is_a_fall_of_a_rung_and_its_part_is_down() -> None:
    service = LocalService(configuration(None), predictor=Silent())
    await service.announce()
    for number in range(4):
        await run(service, range(number, number + 1))
    page = await scrape(service)
    await service.close()

    assert page.value("apportion_fallback_requests_total", rung="static") == 4
    assert page.value("apportion_parts_up", part="predictor") == 0
    assert page.value("apportion_parts_up", part="solver") == 1


@pytest.mark.parametrize(
    ("done", "outcome", "retries"),
    [
        (Done("r", 1e-6, Ending.answered, COURSE), "answered", 0),
        (Done("r", 0.0, Ending.answered, COURSE.__class__(0, 0, 0.1, 0.1, 400)), "rejected", 0),
        (Done("r", 1e-6, Ending.given_up, COURSE.__class__(0, 0, None, 0.1, 499)), "abandoned", 0),
        (Done("r", 1e-6, Ending.given_up, COURSE.__class__(0, 0, None, 0.1, 504)), "late", 0),
        (Done("r", 1e-6, Ending.engine_failed, COURSE.__class__(0, 0, None, 0.1, 503)), "failed", 0),
        (Done("r", 1e-6, Ending.engine_failed, COURSE.__class__(0, 0, None, 0.1, None)), None, 1),
        (Done("r", None, Ending.unsent), None, 0),
        (Done("r", 1e-6, Ending.given_up), "lost", 0),
    ],
)
async def test_an_end_has_one_outcome(done: Done, outcome: str | None, retries: int) -> None:
    service = LocalService(configuration(None))
    await service.announce()
    decision = await service.plan(RouteItem("r", max_tokens=10))
    service.link.finish(done)
    await service.idle_state()
    page = await scrape(service)
    await service.close()

    ended = {(s.labels["outcome"], s.value) for s in page.samples if s.name == "apportion_requests_total" and s.value}
    assert ended == (set() if outcome is None else {(outcome, 1.0)})
    assert page.value("apportion_retries_total", model=decision.model) == retries


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_each_batch_has_its_line(level: str, caplog: pytest.LogCaptureFixture) -> None:
    service = LocalService(configuration(None, metrics={"log_batches": level}))
    await service.announce()
    with caplog.at_level(logging.DEBUG):
        await run(service, range(1))
    await service.close()

    (line,) = [record for record in caplog.records if record.name.endswith("batch_log")]
    assert line.levelname == level.upper()
    assert line.getMessage().startswith("batch 1: 1 requests by mip on rung mip (0 without predictions), planned ")


def test_ray_is_told_what_has_risen(monkeypatch: pytest.MonkeyPatch) -> None:
    from apportion.deployments.observability import ray_bridge
    from apportion.deployments.observability.catalogue import BATCH_SIZE, SLOTS, SPENT
    from apportion.deployments.observability.numbers import Numbers

    class Told:
        """Ray's metric, as far as it is told."""

        def __init__(self, name: str, help: str, *, tag_keys: tuple[str, ...], **_: Any) -> None:  # noqa: A002
            self.name, self.tag_keys = name, tag_keys

        def inc(self, value: float, tags: dict[str, str]) -> None:
            told.append((self.name, value, tags))

        set = observe = inc

    told: list[tuple[str, float, dict[str, str]]] = []
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(ray_bridge, kind, Told)
    bridge = ray_bridge.RayBridge()
    numbers = Numbers(on_observed=bridge.observed)

    numbers.add(SPENT, "wren", by=2_000_000_000)
    numbers.put(SLOTS, {("wren",): 4})
    numbers.observe(BATCH_SIZE, value=3)
    bridge.tell(numbers)
    numbers.add(SPENT, "wren", by=500_000_000)
    bridge.tell(numbers)

    assert [one for one in told if one[0] == "apportion_spent_usd_total"] == [
        ("apportion_spent_usd_total", usd, {"model": "wren"}) for usd in (2.0, 0.5)
    ]
    assert ("apportion_slots", 4, {"model": "wren"}) in told
    assert [one for one in told if one[0] == "apportion_batch_size"] == [("apportion_batch_size", 3, {})]
    assert {metric.kind for metric in CATALOGUE} == set(Kind)
