"""SPROUT (Somerstep et al. 2025, arXiv:2502.03261): 13 models on some 44,000 prompts, with token counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.loaders.hub import files_of, local_folder
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice, price_arrays

_FIELDS = ("score", "num_input_tokens", "num_output_tokens")

PRICES = {
    "aws-claude-3-5-sonnet-v1": ModelPrice(3, 15),
    "aws-titan-text-premier-v1": ModelPrice(0.8, 3.2),
    "openai-gpt-4o": ModelPrice(2.5, 10),
    "openai-gpt-4o-mini": ModelPrice(0.15, 0.6),
    "wxai-granite-3-2b-instruct-8k-max-tokens": ModelPrice(0.1, 0.1),
    "wxai-granite-3-8b-instruct-8k-max-tokens": ModelPrice(0.2, 0.2),
    "wxai-llama-3-1-70b-instruct": ModelPrice(0.9, 0.9),
    "wxai-llama-3-1-8b-instruct": ModelPrice(0.2, 0.2),
    "wxai-llama-3-2-1b-instruct": ModelPrice(0.06, 0.06),
    "wxai-llama-3-2-3b-instruct": ModelPrice(0.06, 0.06),
    "wxai-llama-3-3-70b-instruct": ModelPrice(0.9, 0.9),
    "wxai-llama-3-405b-instruct": ModelPrice(3.5, 3.5),
    "wxai-mixtral-8x7b-instruct-v01": ModelPrice(0.6, 0.6),
}
"""USD per million tokens that the data set's authors use (github somerstep/CARROT, carrot/constants.py)."""


def load_sprout(where: str, prices: Mapping[str, ModelPrice] = PRICES) -> OutcomesTable:
    """The table of SPROUT's parquet files: one, a folder, or a hub data set (all its splits).

    Every model is a column of records with score, num_input_tokens and num_output_tokens; costs follow from
    `prices`, and are unknown for a model without one. Raises OutcomesTableError for files of another form.
    """
    files = files_of(local_folder(where, ["*.parquet"]), "*.parquet")
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    models = tuple(column for column in frame.columns if _is_outcome(frame[column]))
    if "prompt" not in frame or not models:
        raise OutcomesTableError(
            f"{files[0].name} is not of SPROUT's form: it needs a prompt and per model a record of {_FIELDS}"
        )
    scores, input_tokens, output_tokens = (_field(frame, models, name) for name in _FIELDS)
    priced = [prices.get(model, ModelPrice(0.0, 0.0)) for model in models]
    usd_per_input, usd_per_output = price_arrays(priced)
    known = np.array([model in prices for model in models])
    cost_usd = np.where(known, input_tokens * usd_per_input + output_tokens * usd_per_output, np.nan)
    tasks = frame["dataset"] if "dataset" in frame else pd.Series([""] * len(frame))
    queries = pd.DataFrame(
        {
            "query_id": [f"sprout/{row}" for row in range(len(frame))],
            "task": tasks.astype(str).to_numpy(),
            "prompt": frame["prompt"].astype(str).to_numpy(),
        }
    )
    kept = {model: prices[model] for model in models if model in prices}
    return OutcomesTable(queries, models, scores, input_tokens, output_tokens, cost_usd, kept)


def _is_outcome(column: pd.Series) -> bool:
    first = next((value for value in column if value is not None), None)
    return isinstance(first, Mapping) and all(name in first for name in _FIELDS)


def _field(frame: pd.DataFrame, models: tuple[str, ...], name: str) -> FloatArray:
    columns = [[record[name] if isinstance(record, Mapping) else None for record in frame[m]] for m in models]
    return np.array(columns, dtype=np.float64).T
