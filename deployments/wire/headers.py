"""Says why: a decision as response headers, a verdict as JSON."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

from apportion.router.batch.messages import Decision, Refusal, Verdict

HEADER_PREFIX = "x-router-"
TENANT_HEADER = f"{HEADER_PREFIX}tenant"
TIMEOUT_HEADER = f"{HEADER_PREFIX}timeout-s"
STREAM_COST_HEADER = f"{HEADER_PREFIX}stream-cost"
IGNORED_HEADER = f"{HEADER_PREFIX}ignored"


def decision_headers(
    decision: Decision, *, batch_told: bool = True, first: Decision | None = None
) -> list[tuple[bytes, bytes]]:
    """Why this model: its predicted success (if anybody knows it) and cost, prices, batch and rung.

    Args:
        batch_told: say how large the batch was and what all of it may cost.
        first: the first stage of a cascade, of which this is the second.
    """
    batch = decision.batch
    values = {
        "model": decision.model if first is None else f"{first.model}>{decision.model}",
        **({} if decision.success is None else {"success": f"{decision.success:.4f}"}),
        "cost-usd": f"{decision.cost_usd:.6g}",
        "shadow-price": f"{batch.budget_price:.6g}",
        "slot-price": f"{decision.slot_price:.6g}",
        "rung": decision.rung,
        "strategy": decision.strategy,
    }
    if decision.max_tokens is not None:
        values["max-tokens"] = str(decision.max_tokens)
    if decision.predicted_seconds is not None:
        values["predicted-seconds"] = f"{decision.predicted_seconds:.3f}"
    if decision.turn is not None:
        values["turn"] = decision.turn.value
    if batch_told:
        values["batch"] = (
            f"id={batch.id}; size={batch.size}; planned-usd={batch.planned_cost_usd:.6g}; cap-usd={batch.cap_usd:.6g}"
        )
    return [((HEADER_PREFIX + name).encode(), value.encode()) for name, value in values.items()]


def name_headers(name: str) -> list[tuple[bytes, bytes]]:
    """What the answer is called, also where its body has an id of its own; Anthropic's clients know the second header.

    OpenAI's would know `x-request-id`, which is Serve's: it adds its own to every answer.
    """
    return [(f"{HEADER_PREFIX}id".encode(), name.encode()), (b"request-id", name.encode())]


def ignored_header(names: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """Names the fields of a request that mean nothing here; of strange or many names, as much as a header may hold."""
    shown = [re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) for name in itertools.islice(names, 16)]
    return [(IGNORED_HEADER.encode(), ", ".join(shown).encode())] if shown else []


def link_seconds(decision: Decision, planned_s: float) -> float:
    """What a decision took beyond the router's own part of it.

    Args:
        planned_s: seconds that the ingress waited for it.
    """
    timing = decision.timing
    return 0.0 if timing is None else max(planned_s - timing.queue_s - timing.predict_s - timing.solve_s, 0.0)


def server_timing(decision: Decision, planned_s: float, engine_s: float) -> tuple[bytes, bytes]:
    """The standard header that says where the time until an answer began went, in milliseconds.

    `link` is what the exchange with the router took beyond the router's own `queue`, `predict` and `solve`;
    `engine` lasts from sending the request to the engine's answering, of a stream to its first token.

    Args:
        planned_s: seconds that the ingress waited for the decision.
        engine_s: seconds that it then waited for the engine's first bytes.
    """
    spans = {"engine": engine_s}
    if (timing := decision.timing) is not None:
        spans = {
            "link": link_seconds(decision, planned_s),
            "queue": timing.queue_s,
            "predict": timing.predict_s,
            "solve": timing.solve_s,
            "engine": engine_s,
        }
    return b"server-timing", ", ".join(f"{name};dur={1e3 * span_s:.2f}" for name, span_s in spans.items()).encode()


def verdict_json(index: int, verdict: Verdict) -> dict[str, Any]:
    """One entry of the answer of `/v1/route`: where the request would go and why, or why nowhere."""
    if isinstance(verdict, Refusal):
        return {"index": index, **verdict.error.envelope()}
    decision: Decision = verdict
    cap_usd = decision.batch.cap_usd
    return {
        "index": index,
        "model": decision.model,
        "second": None
        if decision.second is None
        else {"model": decision.second.model, "probability": decision.second.probability},
        "success": decision.success,
        "calibrated_success": next(
            (one.calibrated_success for one in decision.candidates if one.model == decision.model), decision.success
        ),
        "cost_usd": decision.cost_usd,
        "predicted_seconds": decision.predicted_seconds,
        "shadow_price": decision.batch.budget_price,
        "slot_price": decision.slot_price,
        "strategy": decision.strategy,
        "rung": decision.rung,
        "batch": {
            "size": decision.batch.size,
            "planned_cost_usd": decision.batch.planned_cost_usd,
            "cap_usd": cap_usd if cap_usd != float("inf") else None,
            "objective": decision.batch.objective,
            "bound": decision.batch.bound,
            "binding": list(decision.batch.binding),
            "limit_prices": dict(decision.batch.limit_prices),
        },
        "candidates": [
            {
                "model": candidate.model,
                "success": candidate.success,
                "calibrated_success": candidate.calibrated_success,
                "cost_usd": candidate.cost_usd,
                "output_tokens": candidate.output_tokens,
                "predicted_seconds": candidate.predicted_seconds,
                "stay_value": candidate.stay_value,
                "allowed": candidate.allowed,
                "reason": candidate.reason,
            }
            for candidate in decision.candidates
        ],
    }
