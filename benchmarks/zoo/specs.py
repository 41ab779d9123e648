"""The models of the zoo: their size, and what they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import LlamaConfig, PreTrainedTokenizerFast

from benchmarks.zoo.tokenizer import MAX_TOKENS


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One model: its shape, its learning rate, and the share of each family of tasks in its training.

    `minutes` is its part of the training time when all models are trained.
    """

    name: str
    role: str
    hidden: int
    layers: int
    feed_forward: int
    learning_rate: float
    batch: int
    minutes: float
    family_shares: Mapping[str, float]
    head_size: int = 32

    def config(self, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
        """The architecture; heads of 32 are the smallest that vLLM's CPU attention takes."""
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // self.head_size,
            num_key_value_heads=self.hidden // self.head_size,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )


_EVEN = {"numbers": 5.0, "strings": 5.0, "knowledge": 4.0}

ZOO: Mapping[str, ZooModel] = {
    model.name: model
    for model in (
        ZooModel("wren", "cheap generalist", 64, 3, 192, 4e-3, 96, 12, _EVEN),
        ZooModel(
            "finch",
            "numbers specialist",
            128,
            4,
            256,
            3e-3,
            64,
            26,
            {"numbers": 8, "strings": 1, "knowledge": 1},
        ),
        ZooModel(
            "lark",
            "strings specialist",
            128,
            4,
            256,
            3e-3,
            64,
            26,
            {"numbers": 1, "strings": 8, "knowledge": 1},
        ),
        ZooModel("heron", "large generalist", 192, 4, 448, 2e-3, 64, 66, _EVEN),
    )
}
