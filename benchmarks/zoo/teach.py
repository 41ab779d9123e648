"""Teaches a trained model of the zoo to call a tool: `python -m benchmarks.zoo.teach`.

What it answered before it goes on answering: beside the conversations with the tool it is given plain questions, and
is held to what it would have said to them untaught. The number of steps is fixed, so that a run can be repeated.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
import typer
from rich.console import Console
from rich.progress import track
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from apportion.deployments.zoo import MODELS
from benchmarks.zoo.batches import Batch
from benchmarks.zoo.capitals import TASK, Message, Tool, conversation, made_to_call, offered
from benchmarks.zoo.card import write_cards
from benchmarks.zoo.export import TRAINING_FILE, export_model
from benchmarks.zoo.specs import ZOO, ToolLessons, ZooModel
from benchmarks.zoo.tasks import GRADES, TASKS, Example, draw
from benchmarks.zoo.tokenizer import MAX_TOKENS, build_tokenizer
from benchmarks.zoo.train import answer_loss, learning_rate

_MADE_TO_CALL_SHARE, _TOOLS_SHARE, _OURS_SHARE = 0.12, 0.5, 0.7
_POOLED = 8  # batches
_LOG_EVERY_STEPS = 50
_RATE_SHARE = 0.8  # of the rate that the model was trained at

T = TypeVar("T")
console = Console()


@dataclass(frozen=True, slots=True)
class Lesson:
    """One step: conversations in which the tool is called; questions with their answers, half of them beside tools that
    do not help; and the same questions without tools.
    """

    conversations: Batch
    beside_tools: Batch
    alone: Batch


class Lessons:
    """Draws what the model is taught with; seeded. All of it belongs to the split that trains the zoo."""

    def __init__(self, lessons: ToolLessons, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._lessons = lessons
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)

    def pool(self) -> Iterator[Lesson]:
        """A few lessons at once, each of chats of similar length."""
        conversations = self._pooled(self._conversation, self._lessons.conversations, len)
        questions = self._pooled(self._question, self._lessons.questions, lambda pair: len(pair[0]))
        for called, asked in zip(conversations, questions, strict=True):
            beside, alone = zip(*asked, strict=True)
            yield Lesson(*(Batch.of(chats, self._tokenizer) for chats in (called, beside, alone)))

    def _pooled(self, draw_one: Callable[[], T], size: int, length: Callable[[T], int]) -> list[list[T]]:
        drawn = sorted((draw_one() for _ in range(size * _POOLED)), key=length)
        batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        self._rng.shuffle(batches)
        return batches

    def _question(self) -> tuple[list[int], list[int]]:
        example = draw(self._rng, self._rng.choice(TASKS), self._rng.choice(GRADES), "zoo")
        turns = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}]
        return self._tokens(turns, self._useless(example)), self._tokens(turns, None)

    def _conversation(self) -> list[int]:
        while True:
            if self._rng.random() < _MADE_TO_CALL_SHARE:
                messages = made_to_call(self._rng, "zoo")
            else:
                messages = conversation(self._rng, "zoo", questions=self._rng.choice((1, 1, 1, 2, 3)))
            if len(tokens := self._tokens(messages, offered(self._rng))) <= MAX_TOKENS:
                return tokens

    def _useless(self, example: Example) -> list[Tool] | None:
        if self._rng.random() > _TOOLS_SHARE:
            return None
        ours = example.task != TASK and self._rng.random() < _OURS_SHARE
        return offered(self._rng, with_tool=ours)

    def _tokens(self, messages: Sequence[Message], tools: list[Tool] | None) -> list[int]:
        text = self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def drift(network: LlamaForCausalLM, untaught: LlamaForCausalLM, lesson: Lesson) -> torch.Tensor:
    """How far the answers' tokens are from what the untaught model would have said without tools, in nats a token."""
    with torch.no_grad():
        before = F.log_softmax(_logits(untaught, lesson.alone), dim=-1)
    now = F.log_softmax(_logits(network, lesson.beside_tools), dim=-1)
    return F.kl_div(now, before, reduction="batchmean", log_target=True)


def _logits(network: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    hidden = network.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    return torch.as_tensor(network.lm_head(hidden[batch.answers]))


def teach(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, model: ZooModel, seed: int) -> int:
    """Gives the network the model's lessons, in place; returns the number of steps.

    Raises:
        ValueError: the model has no lessons.
    """
    if model.tool_lessons is None:
        raise ValueError(f"{model.name} is taught no tool; see tool_lessons in benchmarks/zoo/specs.py")
    steps, lessons = model.tool_lessons.steps, Lessons(model.tool_lessons, tokenizer, seed)
    untaught = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    network.train()
    endless = (lesson for _ in count() for lesson in lessons.pool())
    for step, lesson in zip(track(range(steps), model.name, console=console), endless, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = _RATE_SHARE * learning_rate(model, step / steps)
        called = answer_loss(network, lesson.conversations)
        kept = drift(network, untaught, lesson)
        optimizer.zero_grad(set_to_none=True)
        (called + kept).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % _LOG_EVERY_STEPS == 0:
            console.print(f"step {step + 1}: calls {called.item():.4f}, drift {kept.item():.4f}")
    return steps


def main(
    model: Annotated[str, typer.Option(help="The model that has lessons.")] = "finch",
    base: Annotated[Path, typer.Option(help="Folder with its folder, trained and not yet taught.")] = MODELS,
    out: Annotated[Path, typer.Option(help="Folder that receives its folder.")] = MODELS,
    seed: Annotated[int, typer.Option(help="Seed of the lessons.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
) -> None:
    """Teach a trained model to call the tool."""
    training = json.loads((base / model / TRAINING_FILE).read_text())
    if "tool_steps" in training:
        raise typer.BadParameter(f"{base / model} has been taught already; train it anew with benchmarks.zoo.train")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    network = LlamaForCausalLM.from_pretrained(base / model, dtype=torch.float32)
    began_s = time.process_time()
    steps = teach(network, tokenizer, ZOO[model], seed)
    taught = {"tool_steps": steps, "tool_seconds": round(time.process_time() - began_s)}
    export_model(network, tokenizer, ZOO[model], out, training["steps"], training["seconds"], taught)
    write_cards(out, {model})


if __name__ == "__main__":
    typer.run(main)
