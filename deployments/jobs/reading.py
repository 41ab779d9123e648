"""Reads a row as its caller would have sent it, with what was asked of its whole job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from apportion.deployments.ingress.bodies import RoutingField
from apportion.deployments.ingress.known_fields import ENGINE_PATHS, Kind
from apportion.deployments.ingress.openai import ParsedRequest, parse_object
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.keys.caller import Caller
from apportion.router.batch.messages import RouteItem, RoutingAsk
from apportion.router.jobs.lines import Request

KINDS: dict[str, Kind] = {path: kind for kind, path in ENGINE_PATHS.items()}
# Of what is asked of a job's routing, what holds for each of its rows; the rest is the plan's.
_OF_ROWS = frozenset(RoutingField.model_fields) - {
    "strategy",
    "options",
    "max_seconds",
    "timeout_s",
    "wait_for_budget",
    "session",
    "stream_cost",
}


class RowReader:
    """Makes requests of a job's rows.

    Args:
        routing: what is asked of the job's routing; what a row says goes before it.
        caller: who asks; raises an AuthenticationError where that is nobody any more.
    """

    def __init__(self, routing: dict[str, Any], rules: Rules, caller: Callable[[], Caller]) -> None:
        self._routing = {name: value for name, value in routing.items() if name in _OF_ROWS}
        self._rules = rules
        self._caller = caller

    def read(self, request: Request) -> ParsedRequest:
        """The request of a row.

        Raises:
            ApportionError: it is none that may be answered.
        """
        said = request.body.get("routing") or {}
        body = {**request.body, "routing": {**self._routing, **said}} if self._routing or said else request.body
        return parse_object(KINDS[request.url], body, {}, self._rules, self._caller())


def for_model(item: RouteItem, model: str, second: str | None = None) -> RouteItem:
    """The item of a row that its job's plan has a model for: what else it asks was the plan's to keep.

    Args:
        second: the second model of the cascade that this is a stage of; None: it is none.
    """
    return dataclasses.replace(
        item,
        model=model,
        ask=RoutingAsk(permitted=item.ask.permitted),
        session=None,
        beginnings=(),
        in_tool_loop=False,
        row_second=second,
    )
