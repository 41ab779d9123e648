from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from apportion.router.prediction.chat_template import walks_through_content
from benchmarks.zoo.capitals import TOOL, called, function, result
from benchmarks.zoo.tasks import FAMILIES, generate
from benchmarks.zoo.tokenizer import ASSISTANT, END, SYSTEM, USER, build_tokenizer, chat_text, save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(), folder)
    return AutoTokenizer.from_pretrained(folder)


def test_answers_come_back_exactly(tokenizer):
    for example in generate("zoo", 1400, 1):
        ids = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == example.answer


def test_digits_and_strings_to_spell_are_single_characters(tokenizer):
    for example in generate("zoo", 1400, 2):
        if example.task in FAMILIES["knowledge"]:
            continue
        ids = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(example.answer)


def test_words_of_the_wordings_are_single_tokens(tokenizer):
    tokens = tokenizer.tokenize("What is the capital of France")
    assert [token.strip() for token in tokens] == ["What", "is", "the", "capital", "of", "France"]


@pytest.mark.parametrize(
    "text",
    ["héllo wörld 🙂", "def f(x):\n\treturn x ** 2", "日本語", "\x00\x7f", "   ", "summer capitalise 12sum3"],
)
def test_any_other_text_encodes_without_loss(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_chat_template_renders_turns(tokenizer):
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "2 plus 2"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "reverse abc"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    first = chat_text("2 plus 2", "Answer briefly.")
    assert text == f"{first}4{END}{chat_text('reverse abc')}"
    without = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    assert without == text.removesuffix(ASSISTANT)


def test_chat_template_renders_tools_calls_and_results(tokenizer):
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "capital of Peru"},
        called("Peru"),
        result("Lima"),
        {"role": "assistant", "content": "Lima"},
    ]
    tools = [TOOL, function("weather", "city", "unit"), {"type": "function", "function": {"name": "now"}}]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert text == (
        f"{SYSTEM}capital(country), weather(city, unit), now(){SYSTEM}Answer briefly.{USER}capital of Peru"
        f'{ASSISTANT}[capital(country="Peru")]{END}{USER}result: Lima{ASSISTANT}Lima{END}'
    )
    assert not walks_through_content(tokenizer.chat_template)


def test_rendered_chat_starts_with_the_users_mark_alone(tokenizer):
    message = [{"role": "user", "content": "2 plus 2"}]
    ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == tokenizer(chat_text("2 plus 2"), add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[0] == USER


def test_unknown_roles_are_refused(tokenizer):
    with pytest.raises(Exception, match="unknown role robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)
