"""What an ingress tells an engine beside the request itself, and an engine an ingress beside its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from apportion.deployments.wire.headers import IGNORED_HEADER
from apportion.deployments.wire.settlement import SETTLED_KIND_HEADER, price_header
from apportion.router.batch.messages import Decision

REQUEST_HEADER = "x-request-id"  # vLLM's own log lines have it too
SEQUENCES_HEADER = "x-router-sequences"
SIGNALS_ASKED_HEADER = "x-router-signals-asked"
TOKEN_HEADER = "x-router-token"
BUSY_HEADER = "x-apportion-busy"
UPSTREAM_ID_HEADER = "x-router-upstream-id"
# What an engine says to clients, which its ingress passes on.
PASSED_ON = (UPSTREAM_ID_HEADER, IGNORED_HEADER, SETTLED_KIND_HEADER)


def engine_headers(decision: Decision, sequences: int, *, signals_asked: bool = False) -> dict[str, str]:
    """Headers of a request to the engine: its id, its size, its price, and that an ingress of the service sends it.

    Args:
        signals_asked: the engine is to tell how sure its model was; of several answers it does not.
    """
    headers = {
        "content-type": "application/json",
        REQUEST_HEADER: decision.id,
        SEQUENCES_HEADER: str(sequences),
    }
    if decision.price is not None:
        headers |= [price_header(decision.price)]
    if decision.token is not None:
        headers[TOKEN_HEADER] = decision.token
    if signals_asked and sequences == 1:
        headers[SIGNALS_ASKED_HEADER] = "1"
    return headers


def busy_of(headers: Mapping[str, str]) -> float | None:
    """For how many seconds an engine takes no more, since whoever answers behind it does not; None: it answers."""
    try:
        busy_s = float(headers.get(BUSY_HEADER, ""))
    except ValueError:
        return None
    return max(busy_s, 0.001) if math.isfinite(busy_s) else None
