"""The configuration's section on traces."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from apportion.router.checked import Section

TRACES_PATH = "/v1/traces"  # where collectors take spans


class TracingConfig(Section):
    """Spans of requests, sent by OTLP over HTTP; need `apportion[otel]`."""

    endpoint: str = Field(
        description="Collector, as in `http://collector:4318`; a URL without a path gets /v1/traces. What it asks of "
        "its senders is told by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_HEADERS."
    )
    sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the requests that are traced; one that comes with a `traceparent` does what that says.",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, endpoint: str) -> str:
        url = urlsplit(endpoint)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("give a URL such as http://collector:4318")
        return endpoint if url.path.strip("/") else url._replace(path=TRACES_PATH).geturl()

    @field_validator("endpoint")
    @classmethod
    def _is_installed(cls, endpoint: str) -> str:
        if not all(map(_is_there, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"))):
            raise ValueError("needs OpenTelemetry; install apportion[otel], or remove the section `tracing`")
        return endpoint


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
