"""The tool that a model of the zoo is taught to call, which tells capitals, and conversations in which it is called."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.zoo.facts import FACTS
from benchmarks.zoo.tasks import GRADES, TASKS, Split, draw, split_of
from benchmarks.zoo.wording import SYSTEM_PROMPTS

Message = dict[str, Any]
Tool = dict[str, Any]

TASK = "capital"
OTHER_TASKS = tuple(task for task in TASKS if task != TASK)
CAPITALS: Mapping[str, str] = {country: city for grade in FACTS[TASK] for country, city in grade}
ERROR = "error"  # what the tool says, and is answered, where it failed

_WORDS = tuple(sorted({answer for facts in FACTS.values() for grade in facts for _, answer in grade}))
_COUNTRIES = tuple(CAPITALS)
_NAMES = ("weather", "search", "read_file", "now", "send_mail", "translate", "stock", "run", "lookup", "get_user")
_PARAMETERS = ("city", "query", "path", "text", "id", "unit", "language", "limit", "date")
_PAIRS = (
    "capital of {a} and of {b}",
    "what is the capital of {a} and of {b}?",
    "name the capital of {a} and of {b}",
    "the capital of {a} and the capital of {b}?",
    "please give me the capital of {a} and of {b}",
)
_MISLEADING_SHARE, _PAIRS_SHARE, _FAILED_SHARE, _CAPITALS_SHARE = 0.5, 0.35, 0.05, 0.8
_SYSTEM_SHARE, _OTHERS_SHARE, _JSON_SHARE = 0.1, 0.3, 0.2


def function(name: str, *parameters: str) -> Tool:
    """A tool that takes texts, as requests offer it."""
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOL = function("capital", "country")


def capital(country: str) -> str:
    """What the tool answers."""
    return CAPITALS.get(country, ERROR)


def called(country: str) -> Message:
    """The turn of an assistant that calls the tool."""
    call = {"name": TOOL["function"]["name"], "arguments": {"country": country}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}


def result(told: str) -> Message:
    """The turn of a tool."""
    return {"role": "tool", "content": told}


@dataclass(frozen=True, slots=True)
class Question:
    """A question that takes a call for each of its countries, one after another."""

    prompt: str
    countries: tuple[str, ...]

    def answer(self, told: Callable[[str], str] = capital) -> str:
        """What is right where the tool answers as `told` says; the tokenizer would lose blanks."""
        return ",".join(map(told, self.countries))


def draw_question(rng: random.Random, split: Split, *, pair: bool) -> Question:
    """A question whose text belongs to `split`, of one country or of a pair."""
    while pair:
        countries = tuple(rng.sample(_COUNTRIES, 2))
        prompt = rng.choice(_PAIRS).format(a=countries[0], b=countries[1])
        if split_of(prompt) == split:
            return Question(prompt, countries)
    example = draw(rng, TASK, rng.choice(GRADES), split)
    return Question(example.prompt, (next(one for one in _COUNTRIES if CAPITALS[one] == example.answer),))


def offered(rng: random.Random, *, with_tool: bool = True) -> list[Tool]:
    """Tools of a request: ours, alone or among others that nobody is taught to call, or those alone."""
    others = [_stranger(rng) for _ in range(rng.choice((1, 1, 2)))]
    if not with_tool:
        return others
    tools = [TOOL, *(others if rng.random() < _OTHERS_SHARE else [])]
    rng.shuffle(tools)
    return tools


def _stranger(rng: random.Random) -> Tool:
    name = rng.choice(_NAMES) if rng.random() < 0.5 else "".join(rng.choices(string.ascii_lowercase, k=6))
    return function(name, *rng.sample(_PARAMETERS, rng.choice((0, 1, 1, 2))))


def conversation(rng: random.Random, split: Split, questions: int) -> list[Message]:
    """Some questions and their answers, most of them left to the tool.

    The tool says the right city or any other word, alone or in JSON: what counts is what it said.
    """
    messages: list[Message] = []
    if rng.random() < _SYSTEM_SHARE:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    for _ in range(questions):
        messages += _turns_with_calls(rng, split) if rng.random() < _CAPITALS_SHARE else _other_turns(rng, split)
    return messages


def _other_turns(rng: random.Random, split: Split) -> list[Message]:
    example = draw(rng, rng.choice(("opposite", "past_tense", "kind", "nth_letter")), 1, split)
    return [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}]


def _turns_with_calls(rng: random.Random, split: Split) -> list[Message]:
    asked = draw_question(rng, split, pair=rng.random() < _PAIRS_SHARE)
    turns: list[Message] = [{"role": "user", "content": asked.prompt}]
    told: dict[str, str] = {}
    for country in asked.countries:
        turns.append(called(country))
        if rng.random() < _FAILED_SHARE:
            return [*turns, result(ERROR), {"role": "assistant", "content": ERROR}]
        told[country] = rng.choice(_WORDS) if rng.random() < _MISLEADING_SHARE else capital(country)
        turns.append(result(json.dumps({TASK: told[country]}) if rng.random() < _JSON_SHARE else told[country]))
    return [*turns, {"role": "assistant", "content": asked.answer(told.__getitem__)}]


def made_to_call(rng: random.Random, split: Split) -> list[Message]:
    """A question that is answered by a call in JSON, as engines demand it where the request says that there be one.

    A call of any tool is a list of calls; of one that the request names, its arguments alone.
    """
    asked = draw_question(rng, split, pair=False)
    arguments = {"country": asked.countries[0]}
    form: Any = rng.choice(([{"name": TOOL["function"]["name"], "parameters": arguments}], arguments))
    return [{"role": "user", "content": asked.prompt}, {"role": "assistant", "content": json.dumps(form)}]
