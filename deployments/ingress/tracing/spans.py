"""Requests as OpenTelemetry's spans. Imported only where traces are asked for.

A request is a SERVER span; each plan of it is one below that, with the time at the router in three of its own, and
each attempt a CLIENT span, which the engine is told to go on from.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Iterator, Mapping
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from apportion.deployments.config.tracing import TracingConfig
from apportion.deployments.ingress.attempt import Attempt
from apportion.deployments.ingress.tracing import conventions as names
from apportion.deployments.ingress.tracing.trace import Trace
from apportion.router.batch.messages import Decision, Ending, PlanTiming, RouteItem
from apportion.router.errors import ApportionError

CLOSE_S = 5.0  # for the last spans of an ingress that stops
_PROPAGATOR = TraceContextTextMapPropagator()
_TRACEPARENT = "traceparent"
_NO_FAULT = frozenset({Ending.answered, Ending.given_up, Ending.busy})
_NS = 1_000_000_000


class Tracing:
    """Makes spans of requests and sends them off.

    Args:
        config: where they go, and how many requests have any.
        engines: of the models by name, as `models[].engine` calls them.
        processor: of spans that have ended; None: sends them to the collector, from a thread.
    """

    def __init__(
        self, config: TracingConfig, engines: Mapping[str, str], processor: SpanProcessor | None = None
    ) -> None:
        self._sample = config.sample
        self._engines = engines
        # Whether a request without a parent is traced is decided here, before a span of it is made.
        resource = Resource.create({"service.name": "apportion"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter(config.endpoint)))
        self._tracer = self._provider.get_tracer("apportion")
        self._names = names.generation()

    def begin(self, route: str, headers: Mapping[str, str]) -> Trace:
        """The trace of a request that has just come.

        Args:
            route: where to, one of `OPERATIONS`.
        """
        above = _PROPAGATOR.extract(headers) if _TRACEPARENT in headers else Context()
        if not get_current_span(above).get_span_context().is_valid and random.random() >= self._sample:
            return Trace({_TRACEPARENT: f"00-{random.getrandbits(128) | 1:032x}-{random.getrandbits(64) | 1:016x}-00"})
        server = self._tracer.start_span(
            f"POST {route}",
            above,
            SpanKind.SERVER,
            {names.METHOD: "POST", names.ROUTE: route},
        )
        if not server.is_recording():
            return Trace(_carried(server))
        return RecordedTrace(self._tracer, server, names.OPERATIONS[route], self._engines, self._names)

    async def close(self) -> None:
        """Sends what there is, for CLOSE_S at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), CLOSE_S)


class RecordedTrace(Trace):
    """A request that is traced, while it is served.

    Args:
        tracer: makes its spans.
        server: its own, which has begun.
        operation: what is asked of models; None: no inference.
        engines: of the models by name.
        generation: of the names.
    """

    def __init__(
        self,
        tracer: Tracer,
        server: Span,
        operation: str | None,
        engines: Mapping[str, str],
        generation: names.Generation,
    ) -> None:
        super().__init__()
        self._tracer = tracer
        self._server = server
        self._below = set_span_in_context(server)
        self._operation = operation
        self._engines = engines
        self._names = generation
        self._attempts = 0
        self._error: str | None = None
        self._asked: dict[str, AttributeValue] = {}  # of the request, for each attempt at it

    async def planned(self, item: RouteItem, plan: Awaitable[Decision]) -> Decision:
        """The decision that is awaited, and a span of the waiting."""
        if not self._attempts:
            self._know(item)
        began_ns = time.time_ns()
        span = self._tracer.start_span(names.PLAN, self._below, start_time=began_ns)
        try:
            decision = await plan
        except ApportionError as error:
            _fail(span, error.code)
            raise
        else:
            self._explain(span, began_ns, decision)
            return decision
        finally:
            span.end()

    @contextlib.contextmanager
    def attempted(self, attempt: Attempt, *, stream: bool) -> Iterator[None]:
        """A span of the attempt, from which its engine goes on."""
        self._attempts += 1
        span = self._tracer.start_span(
            f"{self._operation or 'call'} {attempt.decision.model}",
            self._below,
            SpanKind.CLIENT,
            self._sent_with(attempt.decision, stream=stream),
        )
        attempt.carried = _carried(span)
        try:
            yield
        finally:
            span.set_attributes(self._came_of(attempt, stream=stream))
            if attempt.ending not in _NO_FAULT:
                _fail(span, attempt.ending.name)
            span.end()

    def failed(self, error: ApportionError) -> None:
        """Remembers the error's code; what it says may tell of the request."""
        self._error = error.code

    def ended(self, status: int | None, *, whole: bool) -> None:
        """Ends the request's own span."""
        if status is not None:
            self._server.set_attribute(names.STATUS, status)
        if self._error is None and not whole:
            self._server.set_attribute(names.CLIENT_GONE, True)
        elif (status or 0) >= 500 or (self._error is not None and (status or 0) < 400):
            _fail(self._server, self._error or str(status))  # in a stream that has begun, too
        elif (status or 0) >= 400:
            self._server.set_attribute(names.ERROR, self._error or str(status))
        self._server.end()

    def _know(self, item: RouteItem) -> None:
        account = {names.KEY: item.account.key, names.TENANT: item.account.tenant}
        told: dict[str, AttributeValue] = {names.REQUEST_ID: item.id}
        self._server.set_attributes(told | {name: value for name, value in account.items() if value is not None})
        if self._operation is None:
            return
        self._asked[names.OPERATION] = self._operation
        if item.sequences > 1:
            self._asked[names.CHOICES] = item.sequences
        if item.max_tokens is not None:
            self._asked[names.MAX_TOKENS] = item.max_tokens

    def _explain(self, span: Span, began_ns: int, decision: Decision) -> None:
        batch = decision.batch
        values: dict[str, AttributeValue | None] = {
            names.MODEL: decision.model,
            names.REPLICA: decision.replica,
            names.RUNG: decision.rung,
            names.STRATEGY: decision.strategy,
            names.TURN: None if decision.turn is None else decision.turn.value,
            names.SUCCESS: decision.success,
            names.COST_USD: decision.cost_usd,
            names.SHADOW_PRICE: batch.budget_price,
            names.SLOT_PRICE: decision.slot_price,
            names.BATCH_ID: batch.id,
            names.BATCH_SIZE: batch.size,
            names.BATCH_COST_USD: batch.planned_cost_usd,
            names.BATCH_CAP_USD: batch.cap_usd if math.isfinite(batch.cap_usd) else None,
        }
        span.set_attributes({name: value for name, value in values.items() if value is not None})
        if (timing := decision.timing) is not None:
            self._time(set_span_in_context(span), began_ns, timing)

    def _time(self, plan: Context, began_ns: int, timing: PlanTiming) -> None:
        """Where a plan's time went: a request is predicted first, and solved last; between, it is on the way."""
        ended_ns = time.time_ns()
        solved_ns = ended_ns - int(timing.solve_s * _NS)
        spans = {
            names.PREDICT: (began_ns, began_ns + int(timing.predict_s * _NS)),
            names.QUEUE: (solved_ns - int(timing.queue_s * _NS), solved_ns),
            names.SOLVE: (solved_ns, ended_ns),
        }
        if not timing.predict_s:  # it was for an attempt before this one
            del spans[names.PREDICT]
        for name, (from_ns, until_ns) in spans.items():
            self._tracer.start_span(name, plan, start_time=from_ns).end(until_ns)

    def _sent_with(self, decision: Decision, *, stream: bool) -> dict[str, AttributeValue]:
        sent: dict[str, AttributeValue] = {
            **self._asked,
            names.ATTEMPT: self._attempts,
            names.REPLICA: decision.replica or "",
        }
        if self._operation is not None:
            sent[names.REQUEST_MODEL] = decision.model
            sent[self._names.provider] = self._engines.get(decision.model, "vllm")
            if stream and self._names.stream is not None:
                sent[self._names.stream] = True
        url = urlsplit(decision.url or "")
        if url.hostname and url.port:
            sent |= {names.ADDRESS: url.hostname, names.PORT: url.port}
        return sent

    def _came_of(self, attempt: Attempt, *, stream: bool) -> dict[str, AttributeValue]:
        came: dict[str, AttributeValue] = {names.ENDING: attempt.ending.name}
        if attempt.ending is Ending.answered and attempt.status is not None:
            came[names.STATUS] = attempt.status
        if (told := attempt.settled) is not None:
            came |= {names.COST_USD: told.cost_usd}
            if self._operation is not None:
                came |= {names.INPUT_TOKENS: told.input_tokens, names.OUTPUT_TOKENS: told.output_tokens}
        if attempt.first_byte_s is not None:
            came[names.FIRST_BYTE_S] = first_byte_s = attempt.first_byte_s - attempt.begun_s
            if stream and self._names.first_chunk_s is not None:
                came[self._names.first_chunk_s] = first_byte_s
        return came


def _carried(span: Span) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span))
    return carrier


def _fail(span: Span, kind: str) -> None:
    span.set_attribute(names.ERROR, kind)
    span.set_status(StatusCode.ERROR)
