"""How the zoo's questions are put: templates, openers and closers, so that no two users ask alike."""

from __future__ import annotations

import random
import re

TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": (
        "what is {a} + {b}?",
        "{a} plus {b}",
        "add {a} and {b}",
        "sum of {a} and {b}?",
        "calculate {a}+{b}",
        "{a}+{b}=",
        "total of {a} and {b}?",
    ),
    "subtract": (
        "what is {a} - {b}?",
        "{a} minus {b}",
        "calculate {a}-{b}",
        "subtract {b} from {a}",
        "take {b} away from {a}",
        "{a}-{b}=",
    ),
    "remainder": (
        "{a} modulo {b}",
        "remainder of {a} divided by {b}?",
        "what is {a} mod {b}?",
        "divide {a} by {b} and give the remainder",
        "calculate {a}%{b}",
    ),
    "largest": (
        "largest of {items}?",
        "which is the biggest: {items}?",
        "maximum of {items}",
        "find the largest number: {items}",
        "pick the greatest from {items}",
    ),
    "sort_numbers": (
        "sort {items}",
        "put these numbers in ascending order: {items}",
        "sort the numbers {items}",
        "order {items} from small to large",
        "arrange {items} in ascending order",
    ),
    "reverse": (
        "reverse {text}",
        "write {text} backwards",
        "spell {text} in reverse",
        "what is {text} backwards?",
        'reverse the string "{text}"',
    ),
    "sort_letters": (
        "sort the letters of {text}",
        "put the letters of {text} in alphabetical order",
        "alphabetise {text}",
        "arrange {text} alphabetically",
        'letters of "{text}" in alphabetical order?',
    ),
    "count_letter": (
        "how many {letter} in {text}?",
        "count the letter {letter} in {text}",
        "how often does {letter} occur in {text}?",
        "count {letter} in {text}",
        'how many times is {letter} in "{text}"?',
    ),
    "nth_letter": (
        "{nth} letter of {text}?",
        "what is the {nth} letter of {text}?",
        "give me the {nth} letter in {text}",
        "which letter is {nth} in {text}?",
        'the {nth} character of "{text}"',
    ),
    "remove_letter": (
        "remove {letter} from {text}",
        "delete every {letter} in {text}",
        "write {text} without {letter}",
        "drop the letter {letter} from {text}",
        'strip all {letter} out of "{text}"',
    ),
    "capital": (
        "what is the capital of {word}?",
        "capital of {word}",
        "which city is the capital of {word}?",
        "name the capital of {word}",
        "{word} has which capital?",
        "the capital city of {word} is",
    ),
    "opposite": (
        "what is the opposite of {word}?",
        "opposite of {word}",
        "give the opposite of {word}",
        "antonym of {word}?",
        "which word means the opposite of {word}?",
        "not {word} but",
    ),
    "past_tense": (
        "past tense of {word}?",
        "what is the past tense of {word}?",
        "today they {word}, yesterday they",
        "put {word} in the past tense",
        "simple past of {word}",
        "past form of the verb {word}?",
    ),
    "kind": (
        "what kind of thing is {word}?",
        "{word} is which kind of thing?",
        "which category does {word} belong to?",
        "category of {word}",
        "classify {word}",
        "what is {word}?",
    ),
}

ORDINALS = ("first", "last", "second", "third", "fourth", "fifth", "sixth")

OPENERS = (
    "please",
    "hi,",
    "hello,",
    "hey,",
    "ok,",
    "so,",
    "quick question:",
    "quick one:",
    "tell me:",
    "question:",
    "good morning,",
    "i need help:",
)
CLOSERS = (
    "please",
    "thanks",
    "thank you",
    "now",
    "answer only",
    "just the answer",
    "be quick",
    "!",
    "??",
    "...",
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Answer only with the result.",
    "You are a careful assistant. Answer only.",
)

_OPENER_SHARE, _CLOSER_SHARE, _CAPITAL_SHARE, _BARE_SHARE = 0.4, 0.3, 0.4, 0.3


def ask(rng: random.Random, task: str, slots: dict[str, str]) -> str:
    """One wording of a question of `task` with the slots filled, drawn from `rng`."""
    text = rng.choice(TEMPLATES[task])
    if text.endswith("?") and rng.random() < _BARE_SHARE:
        text = text[:-1]
    if rng.random() < _OPENER_SHARE:
        text = f"{rng.choice(OPENERS)} {text}"
    if rng.random() < _CLOSER_SHARE:
        closer = rng.choice(CLOSERS)
        text = f"{text} {closer}" if closer[0].isalpha() else text + closer
    if rng.random() < _CAPITAL_SHARE:
        text = text[0].upper() + text[1:]
    return text.format(**slots)


def wording_words() -> set[str]:
    """Every word of two letters or more that the wordings can contain, in both cases."""
    phrases = [line for lines in TEMPLATES.values() for line in lines]
    phrases += [*OPENERS, *CLOSERS, *SYSTEM_PROMPTS, *ORDINALS]
    words = {word for phrase in phrases for word in re.findall(r"[A-Za-z]{2,}", re.sub(r"\{\w+\}", " ", phrase))}
    return words | {word[0].upper() + word[1:] for word in words}
