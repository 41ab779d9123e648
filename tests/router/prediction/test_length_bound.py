import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from apportion.router.prediction.length_bound import LengthBound

WORDS = ["the hen lays an egg, and the heron does not", "      deeply indented", "naïve café, 中文没有空格 and 😀😀"]


def byte_level(*, some_bytes: bool = False, **options: object) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = options.get("normalizer")
    tokenizer.pre_tokenizer = options.get("pre_tokenizer") or pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = [] if some_bytes else pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS * 5, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2's: blanks become a sign, unknown characters their bytes."""
    letters = sorted(set("".join(WORDS)) | {"▁"})[:30] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: index for index, token in enumerate(["<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.ByteFallback()
    return tokenizer


def greedy() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True)])
    return tokenizer


BOUNDED: list[Callable[[], Tokenizer]] = [
    byte_level,
    lambda: byte_level(normalizer=normalizers.NFC()),
    lambda: byte_level(
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    ),
    byte_fallback,
    greedy,
]


@pytest.mark.parametrize("make", BOUNDED)
def test_no_text_has_fewer_tokens(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    bound = LengthBound.of(tokenizer)
    assert bound is not None
    pieces = st.one_of(st.text(), st.sampled_from([*WORDS, "<|end|>", " ", "\n", "ᾂ", "각"]))

    @given(st.lists(pieces, max_size=20), st.integers(1, 20))
    def holds(texts: list[str], times: int) -> None:
        text = "".join(texts) * times
        assert bound.least_tokens(text) <= len(tokenizer.encode(text).ids)

    holds()


@pytest.mark.parametrize("make", BOUNDED)
def test_a_long_text_of_words_is_known_to_be_long(make: Callable[[], Tokenizer]) -> None:
    bound = LengthBound.of(make())
    assert bound is not None
    assert bound.least_tokens("the hen lays " * 10_000) > 500


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "hen": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@pytest.mark.parametrize(
    "make",
    [
        word_piece,
        lambda: Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")),
        lambda: Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True)),
        lambda: byte_level(some_bytes=True),
        lambda: byte_level(normalizer=normalizers.Strip()),
        lambda: byte_level(normalizer=normalizers.Sequence([normalizers.Replace("  ", " ")])),
        lambda: byte_level(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        ),
    ],
)
def test_what_may_lose_characters_has_no_bound(make: Callable[[], Tokenizer]) -> None:
    assert LengthBound.of(make()) is None


def test_the_longest_token_counts() -> None:
    tokenizer = byte_level()
    longest = max(map(len, json.loads(tokenizer.to_str())["model"]["vocab"]))
    assert LengthBound.of(tokenizer) == LengthBound(longest, blanks=True)
