"""RouterBench (Hu et al. 2024, arXiv:2403.12031): 11 models on some 36,000 prompts, with recorded costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from apportion.router.chat import joined
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.loaders.hub import files_of, local_folder
from apportion.router.outcomes.loaders.safe_pickle import FRAMES, read_pickle
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice

_COST = "|total_cost"
_TEXTS = ("sample_id", "prompt", "eval_name")

PRICES = {
    "WizardLM/WizardLM-13B-V1.2": ModelPrice(0.3, 0.3),
    "claude-instant-v1": ModelPrice(0.8, 2.4),
    "claude-v1": ModelPrice(8.0, 24.0),
    "claude-v2": ModelPrice(8.0, 24.0),
    "gpt-3.5-turbo-1106": ModelPrice(1.0, 2.0),
    "gpt-4-1106-preview": ModelPrice(10.0, 30.0),
    "meta/code-llama-instruct-34b-chat": ModelPrice(0.776, 0.776),
    "meta/llama-2-70b-chat": ModelPrice(0.9, 0.9),
    "mistralai/mistral-7b-chat": ModelPrice(0.2, 0.2),
    "mistralai/mixtral-8x7b-chat": ModelPrice(0.6, 0.6),
    "zero-one-ai/Yi-34B-Chat": ModelPrice(0.8, 0.8),
}
"""Input prices follow from the recorded costs; output prices are the list prices of the time."""


def load_routerbench(where: str, shots: int = 0) -> OutcomesTable:
    """The table of a RouterBench file (.pkl, .csv or .parquet), or of a folder or hub data set that holds
    `routerbench_{shots}shot.pkl`.

    Token counts are unknown; `OutcomesTable.with_counted_tokens` derives them from the costs.
    Raises OutcomesTableError when the file is missing or not of RouterBench's form.
    """
    name = f"routerbench_{shots}shot.pkl"
    file = files_of(local_folder(where, [name]), name)[0]
    frame = _read(file)
    missing = [column for column in _TEXTS if column not in frame]
    models = tuple(column.removesuffix(_COST) for column in frame.columns if column.endswith(_COST))
    if missing or not models:
        raise OutcomesTableError(f"{file.name} is not of RouterBench's form: it lacks {missing or ['<model>' + _COST]}")
    queries = pd.DataFrame(
        {
            "query_id": frame["sample_id"].astype(str).to_numpy(),
            "task": frame["eval_name"].astype(str).to_numpy(),
            "prompt": joined(frame["prompt"].astype(str).tolist()),
        }
    )
    unknown = np.full((len(frame), len(models)), np.nan)
    return OutcomesTable(
        queries=queries,
        models=models,
        scores=frame[list(models)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64),
        input_tokens=unknown,
        output_tokens=unknown.copy(),
        cost_usd=frame[[m + _COST for m in models]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64),
        prices={model: PRICES[model] for model in models if model in PRICES},
    )


def _read(file: Path) -> pd.DataFrame:
    if file.suffix == ".csv":
        return pd.read_csv(file, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False)
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    frame = read_pickle(file, FRAMES)
    if not isinstance(frame, pd.DataFrame):
        raise OutcomesTableError(f"{file.name} holds a {type(frame).__name__}: RouterBench's files hold a data frame")
    return frame
