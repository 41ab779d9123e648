"""A tiny real encoder, tokenizers with chat templates, and outcomes that depend on the prompt."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice

MODELS = ("small", "medium", "large")
PRICES = {"small": ModelPrice(0.1, 0.2), "medium": ModelPrice(0.5, 1.0), "large": ModelPrice(2.0, 8.0)}


def save_encoder(
    folder: Path, seed: int, modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"), heads: int = 2
) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    pieces = list(string.ascii_lowercase + string.digits + string.punctuation)
    words = ["what", "is", "plus", "spell", "backwards", "the", "word"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{p}" for p in pieces), *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=heads,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config).save_pretrained(folder)
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    listed = [
        {"idx": i, "name": str(i), "path": paths[m], "type": f"sentence_transformers.models.{m}"}
        for i, m in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    return folder


def make_outcomes(n: int, seed: int) -> OutcomesTable:
    rng = np.random.default_rng(seed)
    digits = rng.integers(1, 7, n)
    sums = rng.random(n) < 0.5
    prompts = [
        f"What is {rng.integers(10 ** (d - 1), 10**d)} plus {rng.integers(1, 9)}?"
        if is_sum
        else f"Spell the word {''.join(rng.choice(list('abcdefgh'), 2 * d))} backwards."
        for d, is_sum in zip(digits, sums, strict=True)
    ]
    skill = np.array([2.0, 4.0, 6.0])
    chance = 1 / (1 + np.exp(-1.5 * (skill - digits[:, None])))
    scores = (rng.random((n, 3)) < chance).astype(float)
    output_tokens = np.round(np.exp(0.3 * digits[:, None] + rng.normal(0, 0.2, (n, 3)) + 1))
    input_tokens = np.repeat([[float(len(prompt.split()))] for prompt in prompts], 3, axis=1)
    usd = np.array([[p.input_usd_per_million, p.output_usd_per_million] for p in PRICES.values()]) / 1e6
    queries = pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(n)],
            "task": np.where(sums, "sum", "spell"),
            "prompt": prompts,
        }
    )
    return OutcomesTable(
        queries=queries,
        models=MODELS,
        scores=scores,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=input_tokens * usd[:, 0] + output_tokens * usd[:, 1],
        prices=PRICES,
    )


def with_signals(table: OutcomesTable, apart: float, seed: int = 0) -> OutcomesTable:
    """Log-probabilities that are nearer to 0 where answers are right, by so many standard deviations."""
    rng = np.random.default_rng(seed)
    mean = -np.exp(-(rng.normal(size=table.scores.shape) + apart * table.scores))
    signals = np.stack([mean, 3 * mean, 2 * mean, rng.random(mean.shape)], axis=-1)
    return replace(table, signals=signals)
