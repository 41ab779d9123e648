from __future__ import annotations

import operator
import random
import re
from collections import Counter

import pytest

from benchmarks.zoo.facts import FACTS
from benchmarks.zoo.tasks import (
    FAMILIES,
    GRADES,
    TASKS,
    Example,
    draw,
    generate,
    known_words,
    position_of,
    split_of,
)
from benchmarks.zoo.wording import ORDINALS, TEMPLATES

EXAMPLES = generate("zoo", 2100, seed=3)
OPERATORS = {"add": operator.add, "subtract": operator.sub, "remainder": operator.mod}


def integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def spelt(example: Example) -> list[str]:
    """The words of a prompt that no wording contains: strings to be spelt and letters asked for."""
    words = re.findall(r"[A-Za-z]+", re.sub("(?i)i need help", "", example.prompt))
    return [word for word in words if word not in known_words()]


def right_number(example: Example) -> str:
    numbers = integers(example.prompt)
    if example.task == "largest":
        return str(sorted(numbers)[-1])
    if example.task == "sort_numbers":
        return " ".join(str(number) for number in sorted(numbers))
    if re.search("subtract|take", example.prompt, re.IGNORECASE):
        numbers.reverse()
    return str(OPERATORS[example.task](*numbers))


def right_string(example: Example) -> str:
    *letters, text = sorted(spelt(example), key=len)
    ordinals = [word for word in ORDINALS if re.search(rf"\b{word}\b", example.prompt, re.IGNORECASE)]
    match example.task:
        case "reverse":
            return "".join(reversed(text))
        case "sort_letters":
            return "".join(letter * text.count(letter) for letter in sorted(set(text)))
        case "count_letter":
            return str(sum(character == letters[0] for character in text))
        case "remove_letter":
            return "".join(character for character in text if character != letters[0])
        case _:
            return text[-1] if ordinals == ["last"] else text[ORDINALS.index(ordinals[0]) - (ordinals != ["first"])]


def right_fact(example: Example) -> str:
    pairs = dict(FACTS[example.task][example.difficulty - 1])
    asked = [word for word in re.findall(r"[A-Za-z]+", example.prompt) if word in pairs]
    return pairs[asked[-1]]


@pytest.mark.parametrize(("family", "solve"), [("numbers", right_number), ("strings", right_string)])
def test_computed_answers_agree_with_a_second_reading_of_the_prompt(family, solve):
    asked = [example for example in EXAMPLES if example.task in FAMILIES[family]]
    assert len(asked) == 750
    assert [(e, solve(e)) for e in asked] == [(e, e.answer) for e in asked]


def test_facts_come_from_the_table_of_their_grade():
    asked = [example for example in EXAMPLES if example.task in FAMILIES["knowledge"]]
    assert [right_fact(example) for example in asked] == [example.answer for example in asked]


def test_tables_are_graded_and_unambiguous():
    for task, grades in FACTS.items():
        assert [len(grade) for grade in grades] == [15] * len(GRADES)
        questions = [question for grade in grades for question, _ in grade]
        assert len(set(questions)) == len(questions), task


def test_generation_is_determined_by_split_and_seed():
    assert generate("test", 200, 1) == generate("test", 200, 1)
    assert generate("test", 200, 1) != generate("test", 200, 2)


def test_the_mix_is_even_and_without_duplicates():
    assert set(Counter((e.task, e.difficulty) for e in EXAMPLES).values()) == {2100 // (len(TASKS) * len(GRADES))}
    assert len({example.prompt for example in EXAMPLES}) == len(EXAMPLES)


def test_splits_are_disjoint_by_text_and_80_10_10():
    prompts = {split: {e.prompt for e in generate(split, 1400, 5)} for split in ("zoo", "predictor", "test")}
    assert not prompts["zoo"] & (prompts["predictor"] | prompts["test"])
    assert not prompts["predictor"] & prompts["test"]
    assert all(split_of(prompt) == split for split, texts in prompts.items() for prompt in texts)
    shares = Counter(split_of(f"some text {index}") for index in range(20_000))
    assert shares["zoo"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert shares["test"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_split_of_a_text_is_fixed_for_good():
    assert [split_of(text) for text in ("what is 2 + 2?", "reverse abc", "capital of France")] == PINNED


PINNED = ["zoo", "zoo", "zoo"]


def test_every_wording_turns_up():
    for task, templates in TEMPLATES.items():
        rng = random.Random(0)
        prompts = [draw(rng, task, 3, "zoo").prompt.lower() for _ in range(300)]
        for template in templates:
            literal = max(re.split(r"\{\w+\}", template), key=len).strip(' "?:').lower()
            assert any(literal in prompt for prompt in prompts), template


def test_higher_grades_ask_for_more():
    lengths = {grade: [] for grade in GRADES}
    for example in EXAMPLES:
        if example.task == "reverse":
            lengths[example.difficulty].append(len(example.answer))
    assert [set(found) for found in lengths.values()] == [{3}, {4}, {5}, {6}, {8}]


def test_ordinals_name_positions():
    assert "abcdefg"[position_of("first")] == "a"
    assert "abcdefg"[position_of("sixth")] == "f"
    assert "abcdefg"[position_of("last")] == "g"


@pytest.mark.parametrize(
    ("task", "difficulty", "split"), [("cooking", 1, "zoo"), ("add", 6, "zoo"), ("add", 1, "train")]
)
def test_unknown_questions_are_refused(task, difficulty, split):
    with pytest.raises(ValueError, match="difficulties: 1 to 5"):
        draw(random.Random(0), task, difficulty, split)
