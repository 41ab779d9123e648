"""A model that thinks: its steps, its template's two ways, and what it makes of both."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from benchmarks.zoo.batches import Batches
from benchmarks.zoo.evaluate import MODELS_FOLDER, Greedy, evaluate
from benchmarks.zoo.specs import ZOO
from benchmarks.zoo.tasks import Example, generate
from benchmarks.zoo.thinking import steps_of
from benchmarks.zoo.tokenizer import ASSISTANT, END, END_THINK, MAX_TOKENS, THINK, build_tokenizer, chat_text

THINKER = "crane"
MOST_THOUGHT_TOKENS = 96


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS_FOLDER / THINKER)


@pytest.mark.parametrize(
    ("task", "slots", "steps"),
    [
        ("add", {"a": "785", "b": "47"}, "C7B8A5c0b4a7;A5a7+0=12 2;B8b4+1=13 32;C7c0+1=8 832;"),
        ("add", {"a": "5", "b": "57"}, "B0A5b5a7;A5a7+0=12 2;B0b5+1=6 62;"),
        ("add", {"a": "99", "b": "9"}, "B9A9b0a9;A9a9+0=18 8;B9b0+1=10 108;"),
        ("subtract", {"a": "342", "b": "35"}, "C3B4A2c0b3a5;A2a5-0=7!7;B4b3-1=0 07;C3c0-0=3 307;"),
        ("subtract", {"a": "40", "b": "33"}, "B4A0b3a3;A0a3-0=7!7;B4b3-1=0 07;"),
        ("remainder", {"a": "473", "b": "6"}, "A4-0=4 B47-42=5 C53-48=5"),
        ("largest", {"items": "45,12,52"}, "45 45 52"),
        ("reverse", {"text": "xyz"}, "AxByCz;CzByAx"),
        ("count_letter", {"text": "aca", "letter": "a"}, "a;Aa=1Bc!1Ca=2"),
        ("remove_letter", {"text": "aca", "letter": "a"}, "a;Aa=0Bc!1Ca=1"),
        ("nth_letter", {"text": "kshvw", "nth": "third"}, "AkBsCh"),
        ("nth_letter", {"text": "ksh", "nth": "last"}, "AkBsCh"),
        ("sort_letters", {"text": "cbd"}, "."),
        ("capital", {"word": "Peru"}, "."),
    ],
)
def test_steps_lead_to_the_answer(task, slots, steps):
    assert steps_of(Example("?", "?", task, 1, slots)) == steps


def test_every_step_is_a_character_and_all_of_them_fit(tokenizer):
    for example in generate("zoo", 1400, 4):
        steps, said = steps_of(example), f"{chat_text(example.prompt)}{THINK}{steps_of(example)}{END_THINK}"
        if steps != ".":
            assert len(tokenizer(steps, add_special_tokens=False)["input_ids"]) == len(steps)
        assert len(steps) + len(example.answer) + 3 <= MOST_THOUGHT_TOKENS
        assert len(tokenizer(said, add_special_tokens=False)["input_ids"]) <= MAX_TOKENS - 32


def test_the_template_asks_for_thoughts_unless_told_otherwise(tokenizer):
    messages = [{"role": "user", "content": "2 plus 2"}]
    how = {"tokenize": False, "add_generation_prompt": True}
    direct = tokenizer.apply_chat_template(messages, **how, enable_thinking=False)
    assert direct == chat_text("2 plus 2") + THINK + END_THINK
    assert tokenizer.apply_chat_template(messages, **how, enable_thinking=True) == chat_text("2 plus 2")
    assert tokenizer.apply_chat_template(messages, **how) == chat_text("2 plus 2")
    answered = [*messages, {"role": "assistant", "content": "4"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False, enable_thinking=False).endswith(f"{ASSISTANT}4{END}")


def test_thoughts_have_marks_of_their_own_that_engines_show(tokenizer):
    """The other models' tokens stay where they are, so that a model can start from one of them."""
    others = build_tokenizer().get_vocab()
    assert tokenizer.get_vocab() == others | {THINK: len(others), END_THINK: len(others) + 1}
    ids = tokenizer("<think>1+1+0=2 2;</think>2", add_special_tokens=False)["input_ids"]
    assert (ids[0], ids[-2]) == (len(others), len(others) + 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>1+1+0=2 2;</think>2"


def test_the_loss_sees_thoughts_but_not_the_one_that_the_template_gives():
    tokenizer, kinds = build_tokenizer(thinks=True), set()
    for batch in Batches(ZOO[THINKER], tokenizer, seed=3).pool(0.5):
        for ids, answers in zip(batch.ids, batch.answers, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(ids)
            start, end, thought = tokens.index(ASSISTANT), tokens.index(END), tokens.index(END_THINK)
            direct = thought == start + 2
            kinds.add(direct)
            assert answers.nonzero().flatten().tolist() == list(range(thought if direct else start, end))
    assert kinds == {True, False}


def test_thinking_pays_for_sums_and_does_not_for_letters():
    """Neither way is the better one for everything, so there is something to route; both are graded by the answer."""
    examples = generate("test", 700, seed=21)
    for tasks, better, worse in (
        (("add", "subtract"), "crane@think", "crane@direct"),
        (("reverse", "count_letter"), "crane@direct", "crane@think"),
    ):
        scores = evaluate([MODELS_FOLDER / THINKER], [one for one in examples if one.task in tasks]).means()
        assert scores[better] > scores[worse] + 0.03


def test_it_thinks_only_when_asked_to():
    model = Greedy(MODELS_FOLDER / THINKER)
    (thought,), (direct,) = model.answers_to(["3 plus 4"], think=True), model.answers_to(["3 plus 4"])
    assert thought.startswith(THINK)
    assert END_THINK in thought
    assert THINK not in direct
