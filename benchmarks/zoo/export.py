"""Writes a trained model as an ordinary Hugging Face folder, in float16."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.zoo.specs import ZooModel
from benchmarks.zoo.tokenizer import save_tokenizer

TRAINING_FILE = "training.json"
_MAX_NEW_TOKENS, _MAX_NEW_TOKENS_OF_CALLS, _MAX_NEW_TOKENS_OF_THOUGHTS = 32, 64, 96


def export_model(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    model: ZooModel,
    out: Path,
    steps: int,
    seconds: float,
    taught: Mapping[str, float] | None = None,
) -> Path:
    """Write `out/<name>`; the folder is swapped in whole, so that a reader never meets half a model.

    Args:
        steps: of the training.
        seconds: of the training.
        taught: more to say of the training.
    """
    out.mkdir(parents=True, exist_ok=True)
    part, folder = out / f".{model.name}.part", out / model.name
    shutil.rmtree(part, ignore_errors=True)
    half = copy.deepcopy(network).to("cpu", torch.float16)
    half.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=_longest(model),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    half.save_pretrained(part, safe_serialization=True)
    save_tokenizer(tokenizer, part)
    facts = {"steps": steps, "seconds": round(seconds), "parameters": network.num_parameters(), **(taught or {})}
    (part / TRAINING_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
    return folder


def _longest(model: ZooModel) -> int:
    if model.thinks:
        return _MAX_NEW_TOKENS_OF_THOUGHTS
    return _MAX_NEW_TOKENS_OF_CALLS if model.tool_lessons else _MAX_NEW_TOKENS
