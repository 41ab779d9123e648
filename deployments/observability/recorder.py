"""Counts what the batch room tells of batches and of requests."""

from __future__ import annotations

from collections.abc import Iterable

from apportion.deployments.observability.catalogue import (
    BATCH_SIZE,
    BATCHES,
    BUSY,
    CASCADES,
    ESTIMATED,
    FALLBACKS,
    FIRST_BYTE_SECONDS,
    LEDGER_SECONDS,
    LIMIT_PRICE,
    LINK_SECONDS,
    PLAN_GAP,
    PLANNED,
    PREDICT_SECONDS,
    QUEUE_SECONDS,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    RETRIES,
    SHADOW_PRICE,
    SLOT_PRICE,
    SOLVE_SECONDS,
    SPENT,
)
from apportion.deployments.observability.numbers import Numbers
from apportion.router.batch.events import AttemptEnded, BatchPlanned, EndedUnserved, Event, RequestEnded
from apportion.router.batch.messages import CLIENT_GONE, Ending
from apportion.router.errors import DeadlineError

STATIC = "static"  # the rung of requests that nobody had a prediction for


class Recorder:
    """Subscribes to the events.

    Args:
        numbers: that it counts in.
        models: names; what is counted by model begins at 0, so that its first rise can be seen.
    """

    def __init__(self, numbers: Numbers, models: Iterable[str]) -> None:
        self._numbers = numbers
        for model in models:
            numbers.add(REQUESTS, model, "answered", by=0)
            for metric in (RETRIES, BUSY, ESTIMATED, PLANNED, SPENT):
                numbers.add(metric, model, by=0)

    def __call__(self, event: Event) -> None:
        """Counts one event."""
        if isinstance(event, AttemptEnded):
            self._attempt(event)
        elif isinstance(event, BatchPlanned):
            self._batch(event)
        elif isinstance(event, EndedUnserved):
            # Whatever the router refuses is told to a client by an ingress, which counts it.
            for code, count in event.counts.items():
                self._numbers.add(REFUSED, code, by=count)

    def _attempt(self, event: AttemptEnded) -> None:
        numbers, model = self._numbers, event.model
        numbers.add(SPENT, model, by=event.cost_nano)
        if event.decision is not None and event.decision.second is not None:
            came = "asked" if event.escalated else "kept" if event.kept else "none"
            numbers.add(CASCADES, model, event.decision.second.model, came)
        if not isinstance(event, RequestEnded):
            if event.ending is Ending.busy:
                numbers.add(BUSY, model)
            elif event.ending is not Ending.unsent and not event.escalated:
                numbers.add(RETRIES, model)
            return
        numbers.add(REQUESTS, model, outcome(event))
        course = event.course
        if event.account.job is not None:  # nobody waits for it
            return
        if course is not None:
            if course.estimated:
                numbers.add(ESTIMATED, model)
            numbers.observe(REQUEST_SECONDS, model, value=course.total_s)
            numbers.observe(LINK_SECONDS, value=course.link_s)
            if course.first_byte_s is not None:
                numbers.observe(FIRST_BYTE_SECONDS, model, value=course.first_byte_s)
        if event.decision is not None and (timing := event.decision.timing) is not None:
            numbers.observe(QUEUE_SECONDS, value=timing.queue_s)
            numbers.observe(PREDICT_SECONDS, value=timing.predict_s)

    def _batch(self, event: BatchPlanned) -> None:
        numbers, info = self._numbers, event.info
        if event.bulk:
            for model, count in zip(event.models, event.placed.tolist(), strict=True):
                if count:
                    numbers.add(PLANNED, model, by=count)
            return
        numbers.add(BATCHES, event.strategy, event.rung)
        numbers.observe(BATCH_SIZE, value=info.size)
        numbers.observe(SOLVE_SECONDS, value=event.solve_s)
        numbers.observe(LEDGER_SECONDS, value=event.take_s)
        for model, count in zip(event.models, event.placed.tolist(), strict=True):
            if count:
                numbers.add(PLANNED, model, by=count)
        if event.static:
            numbers.add(FALLBACKS, STATIC, by=event.static)
        if event.rung != event.strategy and info.size > event.static:
            numbers.add(FALLBACKS, event.rung, by=info.size - event.static)
        numbers.put(PLAN_GAP, {(): event.gap})
        numbers.put(SHADOW_PRICE, {(): info.budget_price})
        numbers.put(SLOT_PRICE, {(name,): p for name, p in zip(event.models, event.slot_prices.tolist(), strict=True)})
        numbers.put(LIMIT_PRICE, {(name,): price for name, price in event.limit_prices.items()})


def outcome(event: RequestEnded) -> str:
    """How a request ended, in a word.

    Returns:
        `answered`; `rejected` by its engine; `late`: its time was up; `abandoned`: its client left; `failed`: its
        engines did; `lost` with its ingress.
    """
    course = event.course
    if course is None or course.status is None:
        return "lost"
    # Where a cascade's second stage comes to nothing, the client has the first answer.
    if event.ending is Ending.answered or (event.second_stage and course.status < 400):
        return "answered" if course.status < 400 else "rejected"
    return {DeadlineError.status: "late", CLIENT_GONE: "abandoned"}.get(course.status, "failed")
