from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from apportion.router.errors import ConfigurationError, InvalidRequestError
from apportion.router.prediction.tokens import Counted, TokenCounter, TokenizerSource

TEMPLATE = (
    "{% if tools %}tool {% endif %}{% for m in messages %}"
    "{% if m['role'] == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)
UNFORESEEN = "{{ messages[0]['reasoning'] ** 2 ** 'secret'|length }}"


def _tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """One token a word."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", chat_template=template)


@pytest.fixture
def counter(tmp_path: Path) -> TokenCounter:
    for name, template in (("a", TEMPLATE), ("b", TEMPLATE), ("c", "x " + TEMPLATE)):
        _tokenizer(template).save_pretrained(tmp_path / name)
    return TokenCounter.load({name: TokenizerSource(str(tmp_path / name)) for name in "abc"})


def test_chats_are_counted_with_template_and_generation_prompt(counter: TokenCounter) -> None:
    chat = [{"role": "user", "content": "one two three"}]
    np.testing.assert_array_equal(counter.count(chat), [5, 5, 6])
    np.testing.assert_array_equal(counter.count(chat, tools=[{"type": "function"}]), [6, 6, 7])
    parts = [{"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]}]
    np.testing.assert_array_equal(counter.count(parts), [5, 5, 6])


def test_prompts_and_token_ids_are_counted_as_they_are(counter: TokenCounter) -> None:
    np.testing.assert_array_equal(counter.count("one two"), [2, 2, 2])
    np.testing.assert_array_equal(counter.count([7, 8, 9]), [3, 3, 3])
    np.testing.assert_array_equal(counter.count(["one two", "three"]), [3, 3, 3])
    np.testing.assert_array_equal(counter.count([[1, 2], [3]]), [3, 3, 3])


def test_what_no_context_holds_is_not_tokenised() -> None:
    core = Tokenizer(models.BPE({sign: index for index, sign in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE)
    counter = TokenCounter({"small": Counted(tokenizer), "large": Counted(tokenizer)}, {"small": 10, "large": 100})
    found = counter.count_batch(["中" * 100, "中" * 101, [{"role": "user", "content": "x" * 10**6}], ["x", "y" * 101]])
    assert found.tokens[:, 0].tolist() == [300, 101, 10**6 + 15, 1 + 2 * 101]  # in the mean of both, too
    np.testing.assert_array_equal(found.tokens[:, 0], found.tokens[:, 1])
    assert counter.token_chars() == (1, 1)
    assert TokenCounter({"one": Counted(tokenizer)}).token_chars() == (None,)


def test_one_bad_item_spoils_no_other(counter: TokenCounter) -> None:
    good = [{"role": "user", "content": "one"}]
    found = counter.count_batch([good, [{"role": "bad", "content": "x"}], [], good, "one two"])
    assert sorted(found.errors) == [1, 2]
    assert "no such role" in found.errors[1].message
    np.testing.assert_array_equal(found.tokens[[0, 3]], [[3, 3, 4]] * 2)
    np.testing.assert_array_equal(found.tokens[[1, 2]], 0)
    with pytest.raises(InvalidRequestError, match="refuses these messages"):
        counter.count([{"role": "bad", "content": "x"}])


def test_what_no_template_foresees_is_one_requests_matter_and_is_not_quoted() -> None:
    counter = TokenCounter({"m": Counted(_tokenizer(UNFORESEEN + TEMPLATE))})
    unforeseen = [{"role": "user", "content": "secret words", "name": "x"}]
    overflowing = [{"role": "assistant", "content": "secret words", "reasoning": 1e300}]
    found = counter.count_batch(["one two", unforeseen, overflowing, "three"])
    assert sorted(found.errors) == [1, 2]
    assert "secret" not in found.errors[2].message
    assert found.tokens[:, 0].tolist() == [2, 0, 0, 1]


def test_a_model_without_template_answers_no_chats() -> None:
    counter = TokenCounter({"base": Counted(_tokenizer(None))})
    with pytest.raises(InvalidRequestError, match="base: has no chat template"):
        counter.count([{"role": "user", "content": "x"}])
    np.testing.assert_array_equal(counter.count("one two"), [2])


def test_a_missing_tokenizer_names_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the tokenizer of 'm' cannot be loaded"):
        TokenCounter.load({"m": TokenizerSource(str(tmp_path))})


def test_a_model_whose_tokenizer_nobody_has_counts_bytes() -> None:
    counter = TokenCounter.load({"theirs": TokenizerSource(None), "other": TokenizerSource(None)})
    assert counter.token_chars() == (None, None)
    chat = [{"role": "user", "content": "Gr\u00fc\u00dfe"}]
    found = counter.count_batch(["\u4e2d" * 3, [1, 2], ["a", "bc"], chat, []], [None, None, None, None, None])
    assert found.tokens[:, 0].tolist() == [10, 2, 5, 32 + len('{"role": "user", "content": ""}') + 7, 0]
    assert sorted(found.errors) == [4]
    np.testing.assert_array_equal(found.tokens[:, 0], found.tokens[:, 1])
    offered = counter.count(chat, tools=[{"type": "function", "function": {"name": "look"}}])
    assert offered[0] - found.tokens[3, 0] > 512
