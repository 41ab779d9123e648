"""Rows of records, made of the events of the batch room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from apportion.router.batch.events import AttemptEnded, Event, Forecast, RequestEnded, RequestRefused
from apportion.router.batch.messages import Course
from apportion.router.budget import from_nano
from apportion.router.records.names import AnswerNames, base_name

MAX_TRIED = 10_000  # requests with a failed attempt whose first plan is remembered

MakeRow = Callable[[AnswerNames], dict[str, Any]]


class RecordRows:
    """Makes a row of each request that has ended, and hands it on.

    Args:
        router: the incarnation, since batches are counted anew with each.
        keep: takes what makes a row, in another thread.
    """

    def __init__(self, router: str, keep: Callable[[MakeRow], None]) -> None:
        self._router = router
        self._keep = keep
        self._planned: OrderedDict[str, str] = OrderedDict()  # the first plan's model, by request
        self._firsts: OrderedDict[str, AttemptEnded] = OrderedDict()  # cascades' first answers that were thrown away

    def __call__(self, event: Event) -> None:
        """One thing that has happened."""
        if isinstance(event, RequestEnded):
            planned = self._planned.pop(event.request_id, event.model)
            first = self._firsts.pop(event.request_id, None)
            self._keep(lambda names: _row(event, planned, self._router, names) | _of_cascade(event, first))
        elif isinstance(event, AttemptEnded):
            if event.escalated:
                self._firsts[event.request_id] = event
                if len(self._firsts) > MAX_TRIED:
                    self._firsts.popitem(last=False)
            self._planned.setdefault(event.request_id, event.model)
            if len(self._planned) > MAX_TRIED:
                self._planned.popitem(last=False)
        elif isinstance(event, RequestRefused):
            self._planned.pop(base_name(event.id), None)


def _row(event: RequestEnded, planned: str, router: str, names: AnswerNames) -> dict[str, Any]:
    return {
        "id": event.request_id,
        "time": datetime.fromtimestamp(event.at_s, UTC),
        "router": router,
        "account": names.account(event.account),
        "named": event.named is not None,
        "planned": planned,
        "chosen": event.model,
        "propensity": 1.0,
        "explored": False,
        "ending": event.ending.name,
        "cost_usd": from_nano(event.cost_nano),
        **_of_decision(event),
        **({} if event.course is None else _of_course(event.course)),
    }


def _of_decision(event: RequestEnded) -> dict[str, Any]:
    decision, forecast = event.decision, event.forecast
    if decision is None:
        return {}
    timing, price = decision.timing, decision.price
    return {
        "batch": decision.batch.id,
        "budget_price": decision.batch.budget_price,
        "slot_price": decision.slot_price,
        "strategy": decision.strategy,
        "rung": decision.rung,
        "expected_cost_usd": decision.cost_usd,
        "predicted_seconds": decision.predicted_seconds,
        **({} if forecast is None else _of_forecast(forecast, event.model)),
        **({} if timing is None else {name: getattr(timing, name) for name in ("queue_s", "predict_s", "solve_s")}),
        **({} if price is None else {name: getattr(price, name) for name in _PRICES}),
    }


def _of_cascade(event: RequestEnded, first: AttemptEnded | None) -> dict[str, Any]:
    """What is kept of a cascade; nothing of other requests.

    Args:
        first: the first stage, whose answer was thrown away.
    """
    if event.row_second is not None:  # each stage of a row is a request; of the first its job decides later
        return {"second": event.row_second} | ({"kept": False} if event.model == event.row_second else {})
    stage = event if first is None else first
    if stage.decision is None or stage.decision.second is None:
        return {}
    row: dict[str, Any] = {"second": stage.decision.second.model, "kept": first is None}
    if first is None or first.course is None:
        return row
    signals = first.course.signals
    told = {} if signals is None else {f"first_{name}": value for name, value in signals._asdict().items()}
    return row | {"first_cost_usd": from_nano(first.cost_nano), **told}


_PRICES = ("input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million")


def _of_forecast(forecast: Forecast, chosen: str) -> dict[str, Any]:
    columns = zip(
        forecast.models,
        forecast.allowed.tolist(),
        forecast.success.tolist(),
        forecast.cost_usd.tolist(),
        strict=True,
    )
    column = forecast.models.index(chosen)
    return {
        "candidates": [
            {"model": model, "allowed": allowed, "success": success, "cost_usd": cost_usd}
            for model, allowed, success, cost_usd in columns
        ],
        "expected_output_tokens": float(forecast.estimates.output_tokens[forecast.row, column]),
    }


def _of_course(course: Course) -> dict[str, Any]:
    return {
        "attempts": course.earlier + 1,
        "status": course.status,
        "input_tokens": course.input_tokens,
        "output_tokens": course.output_tokens,
        "text_hash": None if course.text_hash is None else course.text_hash.hex(),
        "first_byte_s": course.first_byte_s,
        "total_s": course.total_s,
        **({} if course.signals is None else course.signals._asdict()),
    }
