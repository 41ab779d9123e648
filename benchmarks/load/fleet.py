"""The four models of the benchmarks that need no engine: what they cost, and what is expected of requests on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from apportion.router.unpriced import Unpriced

PRICES_USD = {"wren": 0.01, "finch": 0.1, "lark": 1.0, "heron": 10.0}  # a million tokens


def models(max_num_seqs: int) -> list[dict[str, Any]]:
    """Their fields in a configuration; each has so many slots a replica."""
    return [
        {
            "name": name,
            "source": "x",
            "input_usd_per_million": usd,
            "output_usd_per_million": usd,
            "max_model_len": 32_768,
            "max_num_seqs": max_num_seqs,
        }
        for name, usd in PRICES_USD.items()
    ]


def forecast(count: int, rng: np.random.Generator) -> Unpriced:
    """What an ingress tells of so many requests; dearer models are better."""
    shape = (count, len(PRICES_USD))
    tokens = rng.uniform(50, 500, shape)
    success = np.sort(rng.uniform(0.2, 0.95, shape), axis=1)
    layers = (success, np.full(shape, 0.05), np.full(shape, 140.0), tokens, tokens, tokens / 2)
    return Unpriced(tuple(PRICES_USD), np.stack(layers)).brief(samples=False)
