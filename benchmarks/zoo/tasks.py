"""Short questions with one right answer each, in fourteen tasks of five grades.

The prompts are split by a hash of their text, so that what trains the models, what trains or calibrates a
predictor of their success, and what tests either never overlap.
"""

from __future__ import annotations

import functools
import hashlib
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from benchmarks.zoo.facts import FACTS, fact_words
from benchmarks.zoo.wording import ORDINALS, ask, wording_words

Split = Literal["zoo", "predictor", "test"]
Slots = dict[str, str]

GRADES = (1, 2, 3, 4, 5)
MAX_ANSWER_TOKENS = 32  # of every task; what is asked of engines
_MAX_DRAWS = 10_000
_LENGTHS = (3, 4, 5, 6, 8)
_SUM_DIGITS = ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3))


@dataclass(frozen=True, slots=True)
class Example:
    """One question: `difficulty` runs from 1 (easy) to 5 (hard); `slots` are what its task is done with."""

    prompt: str
    answer: str
    task: str
    difficulty: int
    slots: Slots = field(default_factory=dict)


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to, by its text alone: 80 % zoo, 10 % predictor, 10 % test."""
    bucket = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") % 10
    if bucket < 8:
        return "zoo"
    return "predictor" if bucket == 8 else "test"


@functools.cache
def known_words() -> frozenset[str]:
    """Words that the tokenizer knows whole; strings to be spelt are never among them."""
    return frozenset(wording_words() | fact_words())


def _spelt(rng: random.Random, length: int, alphabet: str = string.ascii_lowercase) -> str:
    while (text := "".join(rng.choices(alphabet, k=length))) in known_words():
        pass
    return text


def _number(rng: random.Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _add(rng: random.Random, grade: int) -> tuple[Slots, str]:
    digits = _SUM_DIGITS[grade - 1]
    a, b = rng.sample([_number(rng, d) for d in digits], 2)
    return {"a": str(a), "b": str(b)}, str(a + b)


def _subtract(rng: random.Random, grade: int) -> tuple[Slots, str]:
    digits = _SUM_DIGITS[grade - 1]
    b, a = sorted(_number(rng, d) for d in digits)
    return {"a": str(a), "b": str(b)}, str(a - b)


def _remainder(rng: random.Random, grade: int) -> tuple[Slots, str]:
    digits, divisors = (
        (1, (2, 3)),
        (2, (2, 5, 10)),
        (2, (3, 4)),
        (2, (6, 7, 8, 9)),
        (3, (3, 4, 6, 7, 8, 9)),
    )[grade - 1]
    a, b = _number(rng, digits), rng.choice(divisors)
    return {"a": str(a), "b": str(b)}, str(a % b)


def _numbers(rng: random.Random, count: int, digits: int) -> list[int]:
    low = 10 ** (digits - 1) if digits > 1 else 0
    return rng.sample(range(low, 10**digits), count)


def _listed(rng: random.Random, numbers: list[int]) -> str:
    return (" " if rng.random() < 0.7 else ",").join(map(str, numbers))


def _largest(rng: random.Random, grade: int) -> tuple[Slots, str]:
    count, digits = ((2, 1), (3, 2), (4, 2), (5, 2), (5, 3))[grade - 1]
    numbers = _numbers(rng, count, digits)
    return {"items": _listed(rng, numbers)}, str(max(numbers))


def _sort_numbers(rng: random.Random, grade: int) -> tuple[Slots, str]:
    count, digits = ((3, 1), (4, 1), (5, 1), (3, 2), (4, 2))[grade - 1]
    numbers = _numbers(rng, count, digits)
    return {"items": _listed(rng, numbers)}, " ".join(map(str, sorted(numbers)))


def _reverse(rng: random.Random, grade: int) -> tuple[Slots, str]:
    text = _spelt(rng, _LENGTHS[grade - 1])
    return {"text": text}, text[::-1]


def _sort_letters(rng: random.Random, grade: int) -> tuple[Slots, str]:
    text = _spelt(rng, _LENGTHS[grade - 1])
    return {"text": text}, "".join(sorted(text))


def _with_letter(rng: random.Random, length: int) -> tuple[str, str]:
    """A string of few different letters and one letter that mostly occurs in it."""
    alphabet = "".join(rng.sample(string.ascii_lowercase, max(2, length // 2 + 1)))
    return _spelt(rng, length, alphabet), alphabet[0]


def _count_letter(rng: random.Random, grade: int) -> tuple[Slots, str]:
    text, letter = _with_letter(rng, _LENGTHS[grade - 1])
    return {"text": text, "letter": letter}, str(text.count(letter))


def _remove_letter(rng: random.Random, grade: int) -> tuple[Slots, str]:
    text, letter = _with_letter(rng, _LENGTHS[grade - 1])
    while set(text) == {letter}:
        text, letter = _with_letter(rng, _LENGTHS[grade - 1])
    return {"text": text, "letter": letter}, text.replace(letter, "")


def _nth_letter(rng: random.Random, grade: int) -> tuple[Slots, str]:
    length, reach = ((4, 1), (5, 2), (6, 4), (7, 5), (9, 7))[grade - 1]
    text, nth = _spelt(rng, length), rng.choice(ORDINALS[:reach])
    return {"text": text, "nth": nth}, text[position_of(nth)]


def position_of(ordinal: str) -> int:
    """Index into a string that an ordinal word names; -1 for "last"."""
    return -1 if ordinal == "last" else [word for word in ORDINALS if word != "last"].index(ordinal)


def _fact(task: str, rng: random.Random, grade: int) -> tuple[Slots, str]:
    word, answer = rng.choice(FACTS[task][grade - 1])
    return {"word": word}, answer


_MAKERS: Mapping[str, Callable[[random.Random, int], tuple[Slots, str]]] = {
    "add": _add,
    "subtract": _subtract,
    "remainder": _remainder,
    "largest": _largest,
    "sort_numbers": _sort_numbers,
    "reverse": _reverse,
    "sort_letters": _sort_letters,
    "count_letter": _count_letter,
    "nth_letter": _nth_letter,
    "remove_letter": _remove_letter,
    **{task: functools.partial(_fact, task) for task in FACTS},
}

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "numbers": ("add", "subtract", "remainder", "largest", "sort_numbers"),
    "strings": ("reverse", "sort_letters", "count_letter", "nth_letter", "remove_letter"),
    "knowledge": tuple(FACTS),
}
TASKS = tuple(_MAKERS)


def draw(rng: random.Random, task: str, difficulty: int, split: Split) -> Example:
    """One question of a task and difficulty whose text belongs to `split`.

    Raises ValueError where the task or split is unknown, or no such question turns up in 10,000 draws.
    """
    if task not in _MAKERS or difficulty not in GRADES or split not in get_args(Split):
        raise ValueError(
            f"no questions for {task=} {difficulty=} {split=}; tasks: {', '.join(TASKS)}; "
            f"difficulties: 1 to 5; splits: {', '.join(get_args(Split))}"
        )
    for _ in range(_MAX_DRAWS):
        slots, answer = _MAKERS[task](rng, difficulty)
        if task in FAMILIES["strings"] and answer in known_words():
            continue
        prompt = ask(rng, task, slots)
        if split_of(prompt) == split:
            return Example(prompt, answer, task, difficulty, slots)
    raise ValueError(f"no question of {task} {difficulty} falls into split {split}; widen its wording")


def generate(split: Split, n: int, seed: int) -> list[Example]:
    """`n` different questions of a split in the mix: all tasks and grades equally often, in random order.

    Raises ValueError where the split is unknown or holds fewer than `n` different questions.
    """
    rng = random.Random(f"{split}-{seed}")
    cells = [(task, difficulty) for task in TASKS for difficulty in GRADES]
    rng.shuffle(cells)
    examples: dict[str, Example] = {}
    for index in range(n):
        for _ in range(_MAX_DRAWS):
            example = draw(rng, *cells[index % len(cells)], split)
            if example.prompt not in examples:
                examples[example.prompt] = example
                break
        else:
            raise ValueError(f"split {split} holds fewer than {n} different questions; ask for fewer")
    found = list(examples.values())
    rng.shuffle(found)
    return found
