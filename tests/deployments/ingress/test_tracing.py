"""The spans of a request: what they say, whom they belong to, and what they never hold."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from apportion.deployments.config.tracing import TracingConfig
from apportion.deployments.ingress.tracing.conventions import LATEST, OPT_IN
from apportion.deployments.ingress.tracing.middleware import Traced
from apportion.deployments.ingress.tracing.spans import Tracing
from apportion.router.batch.messages import EngineReplica
from tests.deployments.ingress.dispatching import PATH, dead_url, serving, simulated
from tests.deployments.ingress.front import CONFIG, Front, chat_body, ingress_before
from tests.deployments.ingress.whole import whole_service
from tests.deployments.local_router import NAMES, configuration, keys_file

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "the launch code is 0000"


@dataclass
class Heard:
    """An engine that remembers the headers of what it is asked."""

    app: ASGIApp
    headers: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.headers.append(dict(Request(scope).headers))
        await self.app(scope, receive, send)

    @property
    def traceparents(self) -> list[str | None]:
        return [headers.get("traceparent") for headers in self.headers]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What has ended of the requests in this process, all of which are traced."""
    exporter = InMemorySpanExporter()
    trace_into(exporter, monkeypatch)
    return exporter


def trace_into(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, sample: float = 1.0) -> None:
    config = TracingConfig(endpoint="http://nowhere", sample=sample)
    tracing = Tracing(config, {"small": "simulated", "wren": "simulated"}, SimpleSpanProcessor(exporter))
    monkeypatch.setattr(Traced, "begin", tracing.begin)


def named(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    """By name, in the order in which they began."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in sorted(spans.get_finished_spans(), key=lambda one: one.start_time):
        found.setdefault(span.name, []).append(span)
    return found


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


async def server_span(spans: InMemorySpanExporter) -> ReadableSpan:
    """That of the only request, once it has ended."""
    async with asyncio.timeout(5):
        while not (found := [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]):
            await asyncio.sleep(0.01)
    (span,) = found
    return span


async def ask(front: Front, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=front.server.url) as client:
        return await client.post(PATH, content=chat_body(**fields), headers=headers or {})


async def test_a_retried_request_is_one_tree_from_its_caller_to_its_engines(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    engine = Heard(simulated())
    async with serving(engine) as running:
        replicas = [EngineReplica(name, name, running.url, 1) for name in NAMES]
        replicas.append(EngineReplica("dead", "wren", dead_url(), 64))
        config = configuration(tmp_path / "b.db", keys=keys_file(tmp_path / "keys.yaml", {"name": "k"}))
        async with whole_service(config, replicas) as front:
            answer = await ask(
                front,
                {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "authorization": "Bearer k", "tracestate": "a=b"},
                model="wren",
                max_tokens=5,
                messages=[{"role": "user", "content": SECRET}],
            )
        server = await server_span(spans)
    assert answer.status_code == 200
    found = named(spans)
    first, second = found["chat wren"]
    plans = found["apportion.plan"]
    assert {name: len(ones) for name, ones in found.items()} == {
        f"POST {PATH}": 1,
        "apportion.plan": 2,
        "apportion.queue": 2,
        "apportion.predict": 1,
        "apportion.solve": 2,
        "chat wren": 2,
    }

    assert {span.context.trace_id for span in spans.get_finished_spans()} == {int(TRACE_ID, 16)}
    assert server.parent.span_id == int(PARENT_ID, 16)
    assert {span.parent.span_id for span in (*plans, first, second)} == {server.context.span_id}
    below = [span.parent.span_id for name in ("queue", "predict", "solve") for span in found[f"apportion.{name}"]]
    assert below == [plan.context.span_id for plan in (*plans, plans[0], *plans)]
    assert engine.traceparents == [f"00-{TRACE_ID}-{second.context.span_id:016x}-01"]
    assert engine.headers[0]["tracestate"] == "a=b"

    timed = (*zip(plans, found["apportion.solve"], strict=True), (plans[0], found["apportion.predict"][0]))
    for outer, inner in ((server, plans[0]), (server, second), *timed):
        assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time
    assert plans[0].end_time <= first.start_time <= first.end_time <= plans[1].start_time

    assert dict(server.attributes).items() >= {"http.response.status_code": 200, "apportion.key": "k"}.items()
    assert server.status.status_code is StatusCode.UNSET
    assert dict(plans[1].attributes).items() >= {
        ("apportion.model", "wren"),
        ("apportion.replica", "wren"),
        ("apportion.strategy", "mip"),
        ("apportion.batch.size", 1),
    }
    assert f"{plans[1].attributes['apportion.success']:.4f}" == answer.headers["x-router-success"]
    assert first.attributes["apportion.ending"] == first.attributes["error.type"] == "unreachable"
    assert first.status.status_code is StatusCode.ERROR
    assert dict(second.attributes).items() >= {
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.system", "simulated"),
        ("gen_ai.request.model", "wren"),
        ("gen_ai.request.max_tokens", 5),
        ("apportion.attempt", 2),
        ("apportion.ending", "answered"),
        ("http.response.status_code", 200),
        ("server.port", int(running.url.rpartition(":")[2])),
    }
    usage = answer.json()["usage"]
    assert second.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert second.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 5
    assert second.attributes["apportion.cost_usd"] == float(answer.headers["x-router-settled-cost-usd"])
    assert SECRET not in "".join(span.to_json() for span in spans.get_finished_spans())


@pytest.mark.parametrize(
    ("wanted", "there", "absent"),
    [
        ("", {"gen_ai.system": "simulated"}, {"gen_ai.provider.name", "gen_ai.request.stream"}),
        (f"http, {LATEST}", {"gen_ai.provider.name": "simulated", "gen_ai.request.stream": True}, {"gen_ai.system"}),
    ],
)
async def test_the_environment_picks_the_generation_of_names(
    wanted: str, there: dict[str, Any], absent: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPT_IN, wanted)
    spans = InMemorySpanExporter()
    trace_into(spans, monkeypatch)
    async with ingress_before(simulated(tokens=2, first_token_s=0.1)) as front:
        await ask(front, stream=True)
        await server_span(spans)
    told = dict(named(spans)["chat small"][0].attributes)
    assert told.items() >= there.items()
    assert not absent & set(told)
    assert told["apportion.first_byte_s"] >= 0.1
    assert ("gen_ai.response.time_to_first_chunk" in told) is bool(wanted)


async def test_a_client_that_leaves_is_no_error_and_ends_every_span(spans: InMemorySpanExporter) -> None:
    async with ingress_before(simulated(tokens=100, token_s=0.1)) as front:
        async with (
            httpx.AsyncClient(base_url=front.server.url) as client,
            client.stream("POST", PATH, content=chat_body(stream=True)) as answer,
        ):
            await anext(answer.aiter_bytes())
        server = await server_span(spans)
    call = named(spans)["chat small"][0]
    assert server.attributes["apportion.client.gone"] is True
    assert call.attributes["apportion.ending"] == "given_up"
    assert {server.status.status_code, call.status.status_code} == {StatusCode.UNSET}


async def broken_off() -> AsyncIterator[bytes]:
    yield b"data: {}\n\n"
    raise OSError


async def test_a_stream_that_breaks_is_an_error_though_its_status_was_200(spans: InMemorySpanExporter) -> None:
    async def answer(_: Request) -> Response:
        return StreamingResponse(broken_off(), media_type="text/event-stream")

    async with ingress_before(Starlette(routes=[Route(PATH, answer, methods=["POST"])])) as front:
        assert (await ask(front, stream=True)).status_code == 200
        server = await server_span(spans)
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["error.type"] == "unavailable"
    assert server.status.status_code is StatusCode.ERROR
    assert named(spans)["chat small"][0].attributes["error.type"] == "engine_failed"


async def test_what_nobody_answers_says_why_and_a_mistake_of_the_callers_is_no_error(
    spans: InMemorySpanExporter,
) -> None:
    async with ingress_before(simulated()) as front:
        front.router.urls = [dead_url()]
        assert (await ask(front)).status_code == 503
        server = await server_span(spans)
        assert (server.attributes["error.type"], server.status.status_code) == ("unavailable", StatusCode.ERROR)
        assert len(named(spans)["chat small"]) == 3
        spans.clear()
        assert (await ask(front, model="nobody")).status_code == 404
        (refused,) = spans.get_finished_spans()
    assert (refused.attributes["error.type"], refused.status.status_code) == ("404", StatusCode.UNSET)


async def test_a_caller_that_does_not_sample_is_followed_and_so_do_engines(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Heard(simulated())
    async with ingress_before(engine) as front:
        await ask(front, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"})
        trace_into(spans, monkeypatch, sample=0.0)
        await ask(front)
        await ask(front, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"})
        await ask(front, {"traceparent": "00-junk\tjunk"})
        await server_span(spans)  # the third one's only
    followed, own, sampled, junk = engine.traceparents
    assert re.fullmatch(rf"00-{TRACE_ID}-[0-9a-f]{{16}}-00", followed)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", own)
    assert sampled.startswith(f"00-{TRACE_ID}-")
    assert "junk" not in junk


async def test_without_the_section_nothing_is_sent_on_and_opentelemetry_is_not_loaded() -> None:
    engine = Heard(simulated())
    async with ingress_before(engine) as front:
        await ask(front, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"})
        assert front.ingress._parts.tracing is None
    assert engine.traceparents == [None]
    code = (
        "import sys, apportion.deployments.ingress.ingress\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.exporter.otlp', 'apportion')) "
        "and name.endswith(('trace_exporter', 'tracing.spans'))])"
    )
    assert (await asyncio.to_thread(python, code)).stdout.strip() == "[]"


async def test_spans_reach_a_collector_when_the_ingress_ends_at_the_latest() -> None:
    came: list[ExportTraceServiceRequest] = []

    async def collect(request: Request) -> Response:
        body = await request.body()
        packed = request.headers.get("content-encoding") == "gzip"
        came.append(ExportTraceServiceRequest.FromString(gzip.decompress(body) if packed else body))
        return Response()

    collector = Starlette(routes=[Route("/v1/traces", collect, methods=["POST"])])
    async with (
        serving(collector) as running,
        ingress_before(simulated(), tracing={"endpoint": running.url, "sample": 1}) as front,
    ):
        await ask(front)
        await front.ingress._parts.tracing.close()
    (resource,) = [one for request in came for one in request.resource_spans]
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "apportion"
    assert {span.name for scope in resource.scope_spans for span in scope.spans} == {
        f"POST {PATH}",
        "apportion.plan",
        "chat small",
    }


@pytest.mark.parametrize(
    ("endpoint", "sent_to"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("https://collector/otlp/traces?key=1", "https://collector/otlp/traces?key=1"),
        ("collector:4317", None),
        ("grpc://collector:4317", None),
        ("http://", None),
    ],
)
def test_the_collectors_url_is_checked(endpoint: str, sent_to: str | None) -> None:
    if sent_to is None:
        with pytest.raises(ValueError, match="give a URL such as http://collector:4318"):
            TracingConfig(endpoint=endpoint)
    else:
        assert TracingConfig(endpoint=endpoint).endpoint == sent_to


def test_without_the_packages_the_section_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from apportion.deployments.config.service import parse_config\n"
        f"parse_config({json.dumps(CONFIG | {'tracing': {'endpoint': 'http://collector'}})})"
    )
    assert "install apportion[otel], or remove the section `tracing`" in python(code).stderr
