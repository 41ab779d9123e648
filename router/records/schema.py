"""The columns of records: requests that have ended, what callers thought of answers, and prompts where they are kept.

All three are joined by the request's `id`. Columns may be added; what an older segment lacks reads as null.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from apportion.router.signals import SIGNALS
from apportion.router.traits import Traits

_TIME = pa.timestamp("us", "UTC")
_CANDIDATE = pa.struct(
    {
        "model": pa.string(),
        "allowed": pa.bool_(),
        "success": pa.float32(),
        "cost_usd": pa.float64(),
    }
)


@dataclass(frozen=True)
class Kind:
    """One kind of records: `name` is its folder, `schema` its columns."""

    name: str
    schema: pa.Schema


REQUESTS = Kind(
    "requests",
    pa.schema(
        {
            "id": pa.string(),
            "time": _TIME,
            "router": pa.string(),
            "batch": pa.int64(),
            "account": pa.string(),
            "text_hash": pa.string(),
            "named": pa.bool_(),
            "candidates": pa.list_(_CANDIDATE),
            "budget_price": pa.float64(),
            "slot_price": pa.float64(),
            "strategy": pa.string(),
            "rung": pa.string(),
            "planned": pa.string(),
            "chosen": pa.string(),
            "propensity": pa.float64(),
            "explored": pa.bool_(),
            "attempts": pa.int32(),
            "ending": pa.string(),
            "status": pa.int32(),
            "input_tokens": pa.int64(),
            "output_tokens": pa.int64(),
            "expected_output_tokens": pa.float64(),
            "cost_usd": pa.float64(),
            "expected_cost_usd": pa.float64(),
            "input_usd_per_million": pa.float64(),
            "output_usd_per_million": pa.float64(),
            "cached_input_usd_per_million": pa.float64(),
            "queue_s": pa.float64(),
            "predict_s": pa.float64(),
            "solve_s": pa.float64(),
            "first_byte_s": pa.float64(),
            "total_s": pa.float64(),
            "predicted_seconds": pa.float64(),
        }
        | {name: pa.float32() for name in SIGNALS}
        | {"second": pa.string(), "kept": pa.bool_(), "first_cost_usd": pa.float64()}
        | {f"first_{name}": pa.float32() for name in SIGNALS}
    ),
)
"""A row a request that has ended, however that was.

`candidates` are all models with what the plan went by; `planned` is what its first plan chose and `chosen` what
answered, or was asked last; `budget_price` and `slot_price` (of `chosen`) are the prices of the last plan. `propensity`
is the chance of the choice given all that was known: 1 as long as nothing is drawn by lot. `account` is a keyed hash of
API key and tenant. `predicted_seconds` are those of `chosen`, from its dispatch to its last token. `second` is the
model that a cascade might ask, and `kept` whether it was not; what is thrown away of it, the answer of `planned`, is
told as `first_...`. Of a job's row each stage is a request of its own, with `second` and without `first_...`; `kept` is
null for the first one, which its job weighs later, and false for the second. Null is what nobody knows.
"""

FEEDBACK = Kind(
    "feedback",
    pa.schema(
        {
            "id": pa.string(),
            "time": _TIME,
            "key": pa.string(),
            "number": pa.float64(),
            "text": pa.string(),
            "comment": pa.string(),
        }
    ),
)
"""A row a call; of one `id` and `key` the last counts. Neither `number` nor `text`: what was said is taken back."""

PROMPTS = Kind(
    "prompts",
    pa.schema(
        {"id": pa.string(), "time": _TIME, "prompt": pa.string()} | {name: pa.int64() for name in Traits._fields}
    ),
)
"""What success was predicted from, where prompts are kept."""
