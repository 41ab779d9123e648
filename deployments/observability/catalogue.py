"""Every metric once: its name, what it means, its labels and its buckets. Dashboard, alerts, pages and tests are made
from here or checked against it.

Labels have the values of the configuration, or of this code: models, rungs, strategies, codes of errors. None has the
name of a caller, of a request or of a batch, so there are as many series as the configuration is long.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

PREFIX = "apportion_"
NANO = 1_000_000_000  # parts of a USD
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 300.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Kind(enum.StrEnum):
    """As Prometheus has them."""

    counter = "counter"
    gauge = "gauge"
    histogram = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric.

    Args:
        short: its name behind the prefix, with its unit.
        kind: of metric.
        help: what it means.
        labels: names, in the order in which values are given.
        buckets: upper bounds of a histogram's.
        parts: it is counted in so many parts of its unit, as whole numbers where sums have to be exact.
    """

    short: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    parts: int = 1

    @property
    def name(self) -> str:
        """As it is told and asked for."""
        return PREFIX + self.short

    @property
    def series(self) -> tuple[str, ...]:
        """Names that can be asked for."""
        if self.kind is not Kind.histogram:
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


def _counter(short: str, help: str, *labels: str, parts: int = 1) -> Metric:  # noqa: A002 (Prometheus' word)
    return Metric(short, Kind.counter, help, labels, parts=parts)


def _gauge(short: str, help: str, *labels: str) -> Metric:  # noqa: A002
    return Metric(short, Kind.gauge, help, labels)


def _seconds(short: str, help: str, *labels: str) -> Metric:  # noqa: A002
    return Metric(short, Kind.histogram, help, labels, SECONDS)


UP = _gauge("up", "1 if the router answers; where it is 0 nothing else is told.")

REQUESTS = _counter(
    "requests_total", "Requests whose last attempt has ended: answered, rejected, late, abandoned, failed or lost.",
    "model", "outcome",
)  # fmt: skip
REFUSED = _counter("refused_total", "Requests that ended before any engine's answer or failure, by error code.", "code")
RETRIES = _counter("retries_total", "Attempts that failed and were not the request's last.", "model")
BUSY = _counter("busy_total", "Attempts that came to a provider when it took no more; they cost no retry.", "model")
CASCADES = _counter(
    "cascades_total", "Cascades by what came of their first answers: kept, the second asked, or none.",
    "model", "second", "outcome",
)  # fmt: skip
REQUEST_SECONDS = _seconds("request_seconds", "From a request's arrival to its end.", "model")
FIRST_BYTE_SECONDS = _seconds("first_byte_seconds", "From a request's arrival to its answer's first byte.", "model")
LINK_SECONDS = _seconds("link_seconds", "What a decision took beyond the router's own part of it.")
QUEUE_SECONDS = _seconds("queue_seconds", "A request's time in the queue.")
PREDICT_SECONDS = _seconds("predict_seconds", "A request's time at the predictor.")
SOLVE_SECONDS = _seconds("solve_seconds", "Planning of a batch, solver included.")

BATCHES = _counter("batches_total", "Batches by what was asked for and what decided.", "strategy", "rung")
BATCH_SIZE = Metric("batch_size", Kind.histogram, "Requests of a batch.", buckets=SIZES)
PLANNED = _counter("planned_requests_total", "Requests that batches gave to a model.", "model")
FALLBACKS = _counter(
    "fallback_requests_total", "Requests that were planned on a lower rung than was asked for.", "rung"
)
PLAN_GAP = _gauge("plan_gap", "How far the last batch's objective may be from the best, as a share of it.")
SHADOW_PRICE = _gauge("shadow_price_per_usd", "What one more USD would have added to the last batch's objective.")
SLOT_PRICE = _gauge("slot_price", "What one more slot would have added to the last batch's objective.", "model")
LIMIT_PRICE = _gauge(
    "concurrency_price",
    "What one more of a limit on what is in flight would have added to the last batch's objective.",
    "limit",
)

SLOTS = _gauge("slots", "Slots of replicas that work.", "model")
SLOTS_USED = _gauge("slots_used", "Slots that requests hold.", "model")
ENGINE_PEAK = _gauge(
    "engine_in_flight_peak",
    "Most answers that a replica has had at once since it started, for a moment also those that it was breaking off.",
    "model",
)
IN_FLIGHT = _gauge("in_flight", "Requests at engines.")
LIMIT_MOST = _gauge("concurrency_limit", "What a limit allows in flight: slots, requests or tokens.", "limit")
LIMIT_USED = _gauge("concurrency_used", "What of that is in flight.", "limit")
QUEUE_LENGTH = _gauge(
    "queue_length", "Requests that wait for a slot, for money, for a model to wake, or in bulk.", "wait_for"
)

BULK_JOBS = _gauge("bulk_jobs", "Batches of requests that are worked on.", "status")
BULK_ROWS = _gauge("bulk_rows", "Their requests: completed, failed, in flight, and those that are left.", "state")
BULK_CASCADES = _gauge(
    "bulk_cascades", "Their requests in cascades: first answers that were looked at, and those asked on.", "state"
)
BULK_SLOTS = _gauge("bulk_slots", "Slots that batches can have while nobody else needs any.", "model")
BULK_SLOTS_USED = _gauge("bulk_slots_used", "Slots that requests of batches hold.", "model")
BULK_LATE = _gauge("bulk_late_seconds", "By how much the latest of them is expected to miss the end of its window.")

SPENT = _counter("spent_usd_total", "What ended requests have cost, exact to a nano-USD.", "model", parts=NANO)
RESERVED = _gauge("reserved_usd", "Expected cost of what is in flight.")
BUDGET_LEFT = _gauge(
    "budget_left_ratio", "Share of a limit on money that is neither spent nor set aside.", "scope", "window", "name"
)
OVERRUNS = _counter("overruns_total", "Requests that cost more than their worst case.")
ESTIMATED = _counter(
    "estimated_total", "Answers that their provider has not counted: what they cost is a guess.", "model"
)
LEDGER_SECONDS = _seconds("ledger_seconds", "Taking slots and money for a batch.")

PARTS_UP = _gauge("parts_up", "1 if the part is asked; 0 if it failed and is left alone or tried again.", "part")
BREAKER_OPEN = _gauge("breaker_open", "Replicas that failed and are left alone or tried again.", "model")
TROUBLE = _gauge("provider_trouble", "Replicas whose provider takes nothing until somebody acts.", "model", "trouble")
REPLICAS = _gauge("replicas", "Replicas that send heartbeats.", "model")
ASLEEP = _gauge("asleep", "1 if the model has no replica, and gets one when it is asked for.", "model")

TOKENS_RATIO = _gauge("tokens_ratio", "Output tokens of the last answers over those expected.", "model")
COST_RATIO = _gauge("cost_ratio", "Cost of the last answers over that expected, lengths corrected.", "model")
SUCCESS_PREDICTED = _gauge("success_predicted", "Mean predicted success of the last requests on the model.", "model")
SUCCESS_SHIFT = _gauge(
    "success_shift",
    "How far these predictions are from those of the rows that calibrated the predictor: population stability index.",
    "model",
)
JUDGED = _gauge("judged_answers", "Answers that feedback has judged of late.", "model")
SUCCESS_JUDGED = _gauge("success_judged", "Mean score of the answers that feedback has judged of late.", "model")
JUDGED_DEVIATION = _gauge(
    "judged_deviation", "By how many standard deviations of what chance does they are better than predicted.", "model"
)
RECORDS_DROPPED = _counter("records_dropped_total", "Records that there was no place for.", "kind")

CATALOGUE = (
    UP, REQUESTS, REFUSED, RETRIES, BUSY, CASCADES, REQUEST_SECONDS, FIRST_BYTE_SECONDS, LINK_SECONDS, QUEUE_SECONDS,
    PREDICT_SECONDS, SOLVE_SECONDS, BATCHES, BATCH_SIZE, PLANNED, FALLBACKS, PLAN_GAP, SHADOW_PRICE, SLOT_PRICE,
    LIMIT_PRICE, SLOTS, SLOTS_USED, ENGINE_PEAK, IN_FLIGHT, LIMIT_MOST, LIMIT_USED, QUEUE_LENGTH, BULK_JOBS, BULK_ROWS,
    BULK_CASCADES, BULK_SLOTS, BULK_SLOTS_USED, BULK_LATE, SPENT, RESERVED, BUDGET_LEFT, OVERRUNS, ESTIMATED,
    LEDGER_SECONDS, PARTS_UP, BREAKER_OPEN, TROUBLE, REPLICAS, ASLEEP, TOKENS_RATIO, COST_RATIO, SUCCESS_PREDICTED,
    SUCCESS_SHIFT, JUDGED, SUCCESS_JUDGED, JUDGED_DEVIATION, RECORDS_DROPPED,
)  # fmt: skip
