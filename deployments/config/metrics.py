"""Metrics and the log line of each batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apportion.router.checked import Section


class MetricsConfig(Section):
    """What is told of the service's work beside `GET /metrics`."""

    bridge: bool = Field(False, description="The same metrics among Ray's own, for who reads only those.")
    log_batches: Literal["info", "debug"] = Field(
        "debug", description="Level of the Router's log line of each batch; Ray Serve keeps `info` and above."
    )
