"""LLM-Uncertainty-Bench (Ye et al. 2024, arXiv:2401.12794): logits of multiple-choice answers on five
tasks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.loaders.hub import files_of, local_folder
from apportion.router.outcomes.loaders.safe_pickle import read_pickle
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice

TASKS = ("mmlu_10k", "cosmosqa_10k", "hellaswag_10k", "halu_dialogue", "halu_summarization")
STYLES = ("base", "shared", "task")
DEMONSTRATIONS = (1, 3, 5, 7, 9)
"""Items shown to the models as examples, which are therefore left out."""

LETTERS = "ABCDEF"

PRICES = {
    model: ModelPrice(usd, usd)
    for usd, models in {
        2.20: ("Yi-34B",),
        2.19: ("Qwen-72B",),
        2.16: ("Llama-2-70b-hf",),
        2.00: ("deepseek-llm-67b-base",),
        1.24: ("falcon-40b",),
        0.90: ("Qwen-14B", "Llama-2-13b-hf"),
        0.69: (
            "Mistral-7B-v0.1",
            "Qwen-7B",
            "internlm-7b",
            "Llama-2-7b-hf",
            "deepseek-llm-7b-base",
            "mpt-7b",
            "falcon-7b",
        ),
        0.60: ("Yi-6B",),
        0.18: ("Qwen-1_8B",),
    }.items()
    for model in models
}
"""USD per million tokens, as the article "LLM Routing for Batched Instructions" sets them."""


def load_uncertainty_bench(where: str) -> OutcomesTable:
    """The table of a folder or hub data set with `data/<task>.json` and
    `outputs_base/<model>_<task>_<style>_icl1.pkl`.

    The score is the share of the three prompt styles in which the likeliest letter is the answer. One output
    token is counted, the letter. Raises OutcomesTableError when files are missing or of another form.
    """
    root = local_folder(where, ["data/*.json", "outputs_base/*.pkl"])
    outputs = files_of(root, "outputs_base/*.pkl")
    models = tuple(sorted({name for file in outputs if (name := _model_of(file.stem))}))
    tasks = [task for task in TASKS if (root / "data" / f"{task}.json").is_file()]
    if not models or not tasks:
        raise OutcomesTableError(f"{root} needs data/<task>.json and outputs_base/<model>_<task>_base_icl1.pkl")
    parts = [_task(root, task, models) for task in tasks]
    scores = np.vstack([score for _, score in parts])
    unknown = np.full(scores.shape, np.nan)
    return OutcomesTable(
        queries=pd.concat([queries for queries, _ in parts], ignore_index=True),
        models=models,
        scores=scores,
        input_tokens=unknown,
        output_tokens=np.ones(scores.shape),
        cost_usd=unknown.copy(),
        prices={model: PRICES[model] for model in models if model in PRICES},
    )


def _model_of(stem: str) -> str:
    """`Qwen-1_8B` of `Qwen-1_8B_mmlu_10k_base_icl1`; empty for files of another form."""
    for task in TASKS:
        for style in STYLES:
            if stem.endswith(suffix := f"_{task}_{style}_icl1"):
                return stem.removesuffix(suffix)
    return ""


def _task(root: Path, task: str, models: tuple[str, ...]) -> tuple[pd.DataFrame, FloatArray]:
    items = json.loads((root / "data" / f"{task}.json").read_text())
    items = [item for index, item in enumerate(items) if index not in DEMONSTRATIONS]
    ids = pd.Index([str(item["id"]) for item in items])
    answers = np.array([LETTERS.index(item["answer"]) for item in items])
    scores = np.column_stack([_scores(root, task, model, ids, answers) for model in models])
    queries = pd.DataFrame(
        {
            "query_id": [f"{task}/{item_id}" for item_id in ids],
            "task": task,
            "prompt": [_prompt(item, task) for item in items],
        }
    )
    return queries, scores


def _scores(root: Path, task: str, model: str, ids: pd.Index, answers: IntArray) -> FloatArray:
    """Share of styles answered right, NaN where there is no output at all; `(n_items,)`."""
    right = []
    for style in STYLES:
        file = root / "outputs_base" / f"{model}_{task}_{style}_icl1.pkl"
        if not file.is_file():
            continue
        rows = read_pickle(file)
        chosen = pd.Series(
            [int(np.argmax(row["logits_options"])) for row in rows], index=[str(row["id"]) for row in rows]
        )
        picked = chosen[~chosen.index.duplicated()].reindex(ids).to_numpy(dtype=np.float64)
        right.append(np.where(np.isnan(picked), np.nan, picked == answers))
    if not right:
        return np.full(len(ids), np.nan)
    known = ~np.isnan(right)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(right, axis=0) / known.sum(axis=0))


def _prompt(item: dict[str, Any], task: str) -> str:
    texts = [str(item[key]) for key in ("context", "question") if item.get(key)]
    if not texts:
        raise OutcomesTableError(f"{task}.json, item {item.get('id')}: it has neither a context nor a question")
    choices = item["choices"]
    lettered = choices.items() if isinstance(choices, dict) else zip(LETTERS, choices, strict=False)
    return "\n".join([*texts, *(f"{letter}. {choice}" for letter, choice in lettered)])
