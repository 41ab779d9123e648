"""What an ingress tells an engine beside the request itself."""

from __future__ import annotations

from apportion.deployments.wire.settlement import price_header
from apportion.router.batch.messages import Decision

REQUEST_HEADER = "x-request-id"  # vLLM's own log lines have it too
SEQUENCES_HEADER = "x-router-sequences"
TOKEN_HEADER = "x-router-token"


def engine_headers(decision: Decision, sequences: int) -> dict[str, str]:
    """Headers of a request to the engine: its id, its size, its price, and that an ingress of the service sends it."""
    headers = {
        "content-type": "application/json",
        REQUEST_HEADER: decision.id,
        SEQUENCES_HEADER: str(sequences),
    }
    if decision.price is not None:
        headers |= [price_header(decision.price)]
    if decision.token is not None:
        headers[TOKEN_HEADER] = decision.token
    return headers
