"""Names in spans. OpenTelemetry's for generative AI still change, so both generations of them stand here.

Attributes under `apportion.` are this project's own. None ever holds what was asked or answered.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST = "gen_ai_latest_experimental"
# What models are asked for, by the path that serves it; what is planned and not run, or only counted, is no inference.
OPERATIONS: dict[str, str | None] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages/count_tokens": None,
    "/tokenize": None,
    "/detokenize": None,
    "/v1/route": None,
}

PLAN, QUEUE, PREDICT, SOLVE = "apportion.plan", "apportion.queue", "apportion.predict", "apportion.solve"

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
ERROR = "error.type"
ADDRESS, PORT = "server.address", "server.port"

OPERATION = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
CHOICES = "gen_ai.request.choice.count"
MAX_TOKENS = "gen_ai.request.max_tokens"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"

REQUEST_ID = "apportion.request.id"
KEY, TENANT = "apportion.key", "apportion.tenant"
CLIENT_GONE = "apportion.client.gone"
MODEL, REPLICA = "apportion.model", "apportion.replica"
RUNG, STRATEGY, TURN = "apportion.rung", "apportion.strategy", "apportion.turn"
SUCCESS, COST_USD = "apportion.success", "apportion.cost_usd"
SHADOW_PRICE, SLOT_PRICE = "apportion.shadow_price", "apportion.slot_price"
BATCH_ID, BATCH_SIZE = "apportion.batch.id", "apportion.batch.size"
BATCH_COST_USD, BATCH_CAP_USD = "apportion.batch.planned_cost_usd", "apportion.batch.cap_usd"
ATTEMPT, ENDING = "apportion.attempt", "apportion.ending"
FIRST_BYTE_S = "apportion.first_byte_s"


@dataclass(frozen=True)
class Generation:
    """The names that differ between the generations; None: it has none."""

    provider: str
    stream: str | None = None
    first_chunk_s: str | None = None


UP_TO_1_36 = Generation(provider="gen_ai.system")
NEWEST = Generation(
    provider="gen_ai.provider.name",
    stream="gen_ai.request.stream",
    first_chunk_s="gen_ai.response.time_to_first_chunk",
)


def generation() -> Generation:
    """The one that the environment asks for, as OpenTelemetry would have it asked for; else the old one."""
    wanted = os.environ.get(OPT_IN, "").split(",")
    return NEWEST if LATEST in (name.strip() for name in wanted) else UP_TO_1_36
