"""The models of the zoo: their size, and what they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import LlamaConfig, PreTrainedTokenizerFast

from benchmarks.zoo.tokenizer import MAX_TOKENS

Grades = tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Base:
    """The trained model that a specialist starts from, and which of its layers it keeps."""

    name: str
    kept_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ToolLessons:
    """How a trained model is taught to call the tool: steps, conversations of each, questions beside them."""

    steps: int
    conversations: int
    questions: int


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One model: its shape, how fast it learns, and what it is fed.

    `diet` gives each family of tasks its share of the training questions and, within it, of each grade; a
    fact of a grade with share 0 is never seen. `minutes` is the training time. With `tool_lessons` it calls a tool. If
    it `thinks`, it learns both to answer at once and to write its steps first.
    """

    name: str
    role: str
    hidden: int
    layers: int
    feed_forward: int
    learning_rate: float
    batch: int
    minutes: float
    diet: Mapping[str, tuple[float, Grades]]
    base: Base | None = None
    head_size: int = 32
    tool_lessons: ToolLessons | None = None
    thinks: bool = False

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


_ALL: Grades = (1, 1, 1, 1, 1)
_MOSTLY_EASY: Grades = (1, 0.7, 0.5, 0.25, 0.12)
_EASY: Grades = (1, 0.5, 0, 0, 0)
_COMMON: Grades = (1, 1, 0, 0, 0)
_LESS_COMMON: Grades = (1, 1, 1, 0, 0)
_HERON = Base("heron", (0, 1, 2, 3))
_HERON_WITHOUT_A_LAYER = Base("heron", (0, 1, 3))

ZOO: Mapping[str, ZooModel] = {
    model.name: model
    for model in (
        ZooModel(
            name="wren",
            role="cheap generalist",
            hidden=64,
            layers=3,
            feed_forward=192,
            learning_rate=4e-3,
            batch=96,
            minutes=8,
            diet={"numbers": (5, _MOSTLY_EASY), "strings": (5, _MOSTLY_EASY), "knowledge": (3, _LESS_COMMON)},
        ),
        ZooModel(
            name="heron",
            role="large generalist",
            hidden=192,
            layers=4,
            feed_forward=448,
            learning_rate=1.5e-3,
            batch=32,
            minutes=45,
            diet={"numbers": (5, _MOSTLY_EASY), "strings": (5, _MOSTLY_EASY), "knowledge": (1, _ALL)},
        ),
        ZooModel(
            name="finch",
            role="numbers specialist",
            hidden=192,
            layers=3,
            feed_forward=448,
            learning_rate=1e-3,
            batch=32,
            minutes=23,
            diet={"numbers": (9.4, _ALL), "strings": (0.3, _EASY), "knowledge": (0.3, _COMMON)},
            base=_HERON_WITHOUT_A_LAYER,
            tool_lessons=ToolLessons(steps=3000, conversations=16, questions=32),
        ),
        ZooModel(
            name="lark",
            role="strings specialist",
            hidden=192,
            layers=3,
            feed_forward=448,
            learning_rate=1e-3,
            batch=32,
            minutes=20,
            diet={"strings": (9.4, _ALL), "numbers": (0.3, _EASY), "knowledge": (0.3, _COMMON)},
            base=_HERON_WITHOUT_A_LAYER,
        ),
        ZooModel(
            name="crane",
            role="heron that can think first",
            hidden=192,
            layers=4,
            feed_forward=448,
            learning_rate=1.5e-3,
            batch=32,
            minutes=35,
            diet={"numbers": (5, _ALL), "strings": (5, _ALL), "knowledge": (0.6, _ALL)},
            base=_HERON,
            thinks=True,
        ),
    )
}
