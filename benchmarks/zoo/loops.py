"""Scores of a model that calls the tool: greedy loops, in which the tool answers until the model does."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.zoo.capitals import OTHER_TASKS, TOOL, Message, called, capital, draw_question, result
from benchmarks.zoo.evaluate import Greedy
from benchmarks.zoo.grader import normalise
from benchmarks.zoo.tasks import GRADES, draw
from benchmarks.zoo.tokenizer import chat_text

MOST_CALLS = 3
_MAX_TOKENS = 40
_CALL = re.compile(r'\[capital\(country="([^"]*)"\)\]')


@dataclass(frozen=True, slots=True)
class ToolScores:
    """Shares of right answers with the tool and without it, each of `prompts` held-out prompts.

    `one` ask for one call, `two` for two. `others` ask for what the tool does not help with; `others_called` of
    them are answered by a call nevertheless.
    """

    prompts: int
    one: float
    one_without: float
    two: float
    two_without: float
    others: float
    others_without: float
    others_called: float

    def summary(self) -> dict[str, float]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(slots=True)
class Loop:
    """A conversation of one question; `answer` once there is one."""

    messages: list[Message]
    calls: int = 0
    answer: str | None = None

    def go_on(self, said: str, tool: Callable[[str], str] = capital) -> None:
        """Takes the model's turn, and the tool's after it."""
        call = _CALL.fullmatch(said)
        if call is None or self.calls == MOST_CALLS:
            self.answer = said
            return
        self.calls += 1
        self.messages += [called(call[1]), result(tool(call[1]))]


def run_loops(model: Greedy, prompts: Sequence[str], tool: Callable[[str], str] = capital) -> list[Loop]:
    """Asks every prompt beside the tool, which answers until the model does."""
    loops = [Loop([{"role": "user", "content": prompt}]) for prompt in prompts]
    while waiting := [loop for loop in loops if loop.answer is None]:
        texts = [
            model.tokenizer.apply_chat_template(loop.messages, tools=[TOOL], tokenize=False, add_generation_prompt=True)
            for loop in waiting
        ]
        for loop, said in zip(waiting, model.answers(texts, _MAX_TOKENS), strict=True):
            loop.go_on(said, tool)
    return loops


def score_tool(folder: Path, prompts: int, seed: int) -> ToolScores:
    """Scores the model saved in `folder` on prompts of the test split, so many of each kind."""
    rng = random.Random(f"tools-{seed}")
    model = Greedy(folder)
    one, two = ([draw_question(rng, "test", pair=pair) for _ in range(prompts)] for pair in (False, True))
    others = [draw(rng, rng.choice(OTHER_TASKS), rng.choice(GRADES), "test") for _ in range(prompts)]
    asked = [*((each.prompt, each.answer()) for each in (*one, *two)), *((each.prompt, each.answer) for each in others)]
    loops = run_loops(model, [prompt for prompt, _ in asked])
    alone = model.answers([chat_text(prompt) for prompt, _ in asked])
    with_tool = [_same(loop.answer or "", right) for loop, (_, right) in zip(loops, asked, strict=True)]
    without = [_same(answer, right) for answer, (_, right) in zip(alone, asked, strict=True)]
    first, second, third = (slice(start, start + prompts) for start in range(0, 3 * prompts, prompts))
    return ToolScores(
        prompts,
        one=sum(with_tool[first]) / prompts,
        one_without=sum(without[first]) / prompts,
        two=sum(with_tool[second]) / prompts,
        two_without=sum(without[second]) / prompts,
        others=sum(with_tool[third]) / prompts,
        others_without=sum(without[third]) / prompts,
        others_called=sum(loop.calls > 0 for loop in loops[third]) / prompts,
    )


def _same(answer: str, right: str) -> bool:
    return normalise(answer) == normalise(right)
