"""Endless training batches: questions of the zoo split, padded to similar length, loss on answers only."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from benchmarks.zoo.specs import ZooModel
from benchmarks.zoo.tasks import FAMILIES, GRADES, Example, draw
from benchmarks.zoo.thinking import steps_of
from benchmarks.zoo.tokenizer import ASSISTANT, END, END_THINK, THINK, chat_text
from benchmarks.zoo.wording import SYSTEM_PROMPTS

_POOLED_BATCHES = 4
_SYSTEM_SHARE = 0.05
_CURRICULUM_END = 0.35
_EASY_TILT = 0.8
_THINKING_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids `(n_examples, n_tokens)`, and `answers`, true where the *next* token belongs to an answer."""

    ids: torch.Tensor
    answers: torch.Tensor

    @classmethod
    def of(cls, chats: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerFast) -> Batch:
        """Pads tokens of chats; an answer is what stands between the assistant's mark and the end of its turn.

        A thought without a step is the template's, which asks for none: it is no part of the answer.
        """
        rows = [torch.tensor(chat) for chat in chats]
        ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        begun, ended = (_is(ids, mark, tokenizer).cumsum(dim=1)[:, :-1] for mark in (ASSISTANT, END))
        given = _is(ids[:, :-1], THINK, tokenizer) & _is(ids[:, 1:], END_THINK, tokenizer)
        given[:, :-1] |= given[:, 1:].clone()
        return cls(ids, (begun > ended) & ~given)


def _is(ids: torch.Tensor, mark: str, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Where a token is that mark; nowhere, if the tokenizer does not have it."""
    mark_id = tokenizer.convert_tokens_to_ids(mark)
    return torch.zeros_like(ids, dtype=torch.bool) if mark_id is None else ids == mark_id


def easy_first(progress: float) -> list[float]:
    """Factor of each grade's share: easy grades first, none preferred after the first third."""
    tilt = _EASY_TILT * max(0.0, 1.0 - progress / _CURRICULUM_END)
    return [math.exp(-tilt * (grade - 1)) for grade in GRADES]


class Batches:
    """Draws batches for one model; seeded, and told by the trainer how far the training has come."""

    def __init__(self, model: ZooModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)
        self._size = model.batch
        self._has_base = model.base is not None
        self._thinks = model.thinks
        self._cells = [
            (task, grade, share * grades[grade - 1] / sum(grades) / len(FAMILIES[family]))
            for family, (share, grades) in model.diet.items()
            for task in FAMILIES[family]
            for grade in GRADES
        ]

    def questions(self, progress: float) -> list[Example]:
        """The questions of the next few batches; `progress` of the training runs from 0 to 1."""
        factors = [1.0] * len(GRADES) if self._has_base else easy_first(progress)
        weights = [share * factors[grade - 1] for _, grade, share in self._cells]
        cells = self._rng.choices(self._cells, weights, k=_POOLED_BATCHES * self._size)
        return [draw(self._rng, task, grade, "zoo") for task, grade, _ in cells]

    def pool(self, progress: float) -> Iterator[Batch]:
        """A few batches at once, each of questions of similar length, in random order."""
        texts = [self._text(example) for example in self.questions(progress)]
        chats = sorted(self._tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
        batches = [chats[start : start + self._size] for start in range(0, len(chats), self._size)]
        self._rng.shuffle(batches)
        return (Batch.of(batch, self._tokenizer) for batch in batches)

    def _text(self, example: Example) -> str:
        system = self._rng.choice(SYSTEM_PROMPTS) if self._rng.random() < _SYSTEM_SHARE else None
        thought = self._thought(example) if self._thinks else ""
        return chat_text(example.prompt, system) + thought + example.answer + END

    def _thought(self, example: Example) -> str:
        """Steps, or none where the question is to be answered at once."""
        return THINK + (steps_of(example) if self._rng.random() < _THINKING_SHARE else "") + END_THINK
