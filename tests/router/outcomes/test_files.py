"""Outcomes as people have them: chats, odd ids, byte order marks, half characters, cached tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apportion.router.chat import prompt_text
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes import read_outcomes, write_outcomes
from apportion.router.prices import ModelPrice

SUFFIXES = (".csv", ".jsonl", ".parquet")
CHAT = [
    {"role": "system", "content": 'Be "brief", don\'t guess.'},
    {"role": "user", "content": "What is 970 plus 19?"},
    {"role": "assistant", "content": None},
    {"role": "user", "content": "And\nminus 1?"},
]


def _rows(prompt: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"query_id": "a", "prompt": prompt, "model": model, "score": 1.0, **more} for model in ("m1", "m2")]


def _save(rows: Sequence[dict[str, Any]], file: Path) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    else:
        pd.DataFrame(rows).to_parquet(file, index=False)
    return file


PRINTED: dict[str, Callable[[Any], str]] = {
    "json": json.dumps,
    "python": repr,
    "indented": lambda chat: json.dumps(chat, indent=1),
    "tuple": lambda chat: repr(tuple(chat)),
    "numpy": lambda chat: str(np.array(chat, dtype=object)),  # what pandas writes of such a cell
    "body": lambda chat: json.dumps({"model": "m", "messages": chat}),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("printed", PRINTED.values(), ids=PRINTED)
def test_a_printed_chat_is_the_chat(tmp_path: Path, suffix: str, printed: Any) -> None:
    table = read_outcomes(_save(_rows(printed(CHAT)), tmp_path / f"x{suffix}"))
    assert table.prompts == [prompt_text(CHAT)]
    assert table.prompts[0].endswith("And\nminus 1?")
    (alone,) = read_outcomes(_save(_rows(printed(CHAT[1:2])), tmp_path / f"y{suffix}")).prompts
    assert alone == CHAT[1]["content"]


@pytest.mark.parametrize("one", [repr, json.dumps, dict], ids=["python", "json", "object"])
def test_a_message_alone_is_a_chat_of_one_turn(tmp_path: Path, one: Callable[[Any], Any]) -> None:
    rows = _rows(one({"role": "user", "content": ["Look", {"type": "text", "text": "here"}]}))
    assert read_outcomes(_save(rows, tmp_path / "x.jsonl")).prompts == ["Look\nhere"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_list_of_messages_is_joined_as_the_service_joins_it(tmp_path: Path, suffix: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]}]
    for chat in (CHAT, parts):
        for rows in (_rows(chat), [{**row, "messages": row["prompt"], "prompt": None} for row in _rows(chat)]):
            assert read_outcomes(_save(rows, tmp_path / f"x{suffix}")).prompts == [prompt_text(chat)]


def test_messages_without_any_prompt_are_enough(tmp_path: Path) -> None:
    rows = [{"messages": row.pop("prompt"), **row} for row in _rows(CHAT)]
    assert read_outcomes(_save(rows, tmp_path / "x.jsonl")).prompts == [prompt_text(CHAT)]
    assert read_outcomes(_save(rows, tmp_path / "x.parquet")).prompts == [prompt_text(CHAT)]


def test_a_folder_may_hold_chats_too(tmp_path: Path) -> None:
    pd.DataFrame({"query_id": [1], "messages": [CHAT]}).to_parquet(tmp_path / "queries.parquet")
    pd.DataFrame({"query_id": [1.0], "m": [1.0]}).to_parquet(tmp_path / "scores.parquet")
    table = read_outcomes(tmp_path)
    assert table.prompts == [prompt_text(CHAT)]
    assert table.scores.tolist() == [[1.0]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_printed_lists_of_strings_are_turns_where_all_prompts_are(tmp_path: Path, suffix: str) -> None:
    rows = [
        row for i, turns in enumerate((("What is 1?",), ["It's", "2?"])) for row in _rows(repr(turns), query_id=str(i))
    ]
    assert read_outcomes(_save(rows, tmp_path / f"x{suffix}")).prompts == ["What is 1?", "It's\n\n2?"]
    chats = [*rows, *_rows(repr(CHAT[1:2]), query_id="2")]
    assert read_outcomes(_save(chats, tmp_path / f"x{suffix}")).prompts == [
        "What is 1?",
        "It's\n\n2?",
        CHAT[1]["content"],
    ]
    mixed = [*rows, *_rows("[header] one [title]", query_id="2")]
    assert read_outcomes(_save(mixed, tmp_path / f"x{suffix}")).prompts[:2] == ["('What is 1?',)", "[\"It's\", '2?']"]


@pytest.mark.parametrize(
    "text",
    [
        *("[1, 2]", "[]", "[a](b)", "[{'role': 1}]", "[" * 5000 + "]" * 5000, r"['\d']x]"),
        *(
            "()",
            "(a)",
            "('a')",
            "{}",
            "{{1}}",
            "{[1]: 2}",
            "({1: {[]}},)",
            '{"a": 1}',
            "{'messages': []}",
            "{'messages': ['x']}",
            "{1: 2} {3}",
        ),
        *("[{'a': 1} {'b': 2}]", "(" * 5000 + ")" * 5000, "[{'role': 'user'} and {'role': 'x'}]", "{'a': 1}\n {'b'}"),
    ],
)
def test_what_is_no_chat_stays_the_text_it_is(tmp_path: Path, text: str) -> None:
    assert read_outcomes(_save(_rows(text), tmp_path / "x.jsonl")).prompts == [text]


def test_lines_of_the_batch_api_are_read(tmp_path: Path) -> None:
    body = {"messages": CHAT, "model": "m1", "max_tokens": 5}
    line = {"custom_id": "c-7", "method": "POST", "url": "/v1/chat/completions", "body": body, "score": 0.5}
    table = read_outcomes(_save([line, {**line, "model": "m2"}], tmp_path / "x.jsonl"))
    assert table.queries["query_id"].tolist() == ["c-7"]
    assert table.models == ("m1", "m2")
    assert table.prompts == [prompt_text(CHAT)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_error(tmp_path: Path, suffix: str, end: str) -> None:
    file = _save(_rows("Grüße"), tmp_path / f"x{suffix}")
    text = file.read_text(encoding="utf-8").replace("\n", end)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    table = read_outcomes(file)
    assert (table.prompts, table.models) == (["Grüße"], ("m1", "m2"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, suffix: str) -> None:
    file = _save([*_rows("x"), *_rows("Gruesse", query_id="b")], tmp_path / f"x{suffix}")
    file.write_bytes(file.read_bytes().replace(b"Gruesse", b"Gr\xfc\xdfe"))
    with pytest.raises(OutcomesTableError, match=rf"x\{suffix}, line {3 + (suffix == '.csv')}: not UTF-8"):
        read_outcomes(file)


def test_half_a_surrogate_pair_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [*_rows("both halves \U0001f600"), *_rows("half \ud83d", query_id="b")]
    with pytest.raises(OutcomesTableError, match=r"x\.jsonl, line 3: half of a surrogate pair"):
        read_outcomes(_save(rows, tmp_path / "x.jsonl"))
    assert read_outcomes(_save(rows[:2], tmp_path / "x.jsonl")).prompts == ["both halves \U0001f600"]


def test_half_a_surrogate_pair_in_a_printed_chat_is_named(tmp_path: Path) -> None:
    rows = _rows(json.dumps([{"role": "user", "content": "half \ud83d"}]))
    with pytest.raises(OutcomesTableError, match=r"x\.csv, line 2, column 'prompt' holds half of a surrogate"):
        read_outcomes(_save(rows, tmp_path / "x.csv"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_numbers_1_and_1_0_are_one_id(tmp_path: Path, suffix: str) -> None:
    rows = [{"query_id": i, "prompt": "x", "model": m, "score": 1.0} for i, m in ((1, "m1"), (1.0, "m2"))]
    table = read_outcomes(_save(rows, tmp_path / f"x{suffix}"))
    assert table.queries["query_id"].tolist() == ["1"]
    assert table.scores.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("other", ["1.0", " 1", "1.000 "])
def test_the_texts_1_and_1_0_of_one_prompt_are_one_clear_error(tmp_path: Path, suffix: str, other: str) -> None:
    rows = [{"query_id": i, "prompt": "x", "model": m, "score": 1.0} for i, m in (("1", "m1"), (other, "m2"))]
    file = _save(rows, tmp_path / f"x{suffix}")
    with pytest.raises(OutcomesTableError, match=rf"'1' and {other!r} have the same prompt.*write the id"):
        read_outcomes(file)
    rows[1]["prompt"] = "y"
    assert read_outcomes(_save(rows, file)).queries["query_id"].tolist() == ["1", other]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": ""}, "column 'prompt' is empty"),
        ({"query_id": ""}, "column 'query_id' is empty"),
        ({"score": 2.0}, "column 'score' is 2.0: it must be between 0 and 1"),
        ({"output_tokens": -1.0}, "column 'output_tokens' is -1.0"),
        ({"input_tokens": 3.0, "cached_tokens": 4.0}, "column 'cached_tokens' is more than 'input_tokens'"),
        ({"query_id": "a", "model": "m1"}, "query_id 'a' with model 'm1' occurs before"),
        ({"query_id": "a", "prompt": "other", "model": "m3"}, "column 'prompt' differs"),
    ],
)
def test_a_mistake_is_named_with_its_place_in_every_format(
    tmp_path: Path, suffix: str, change: dict[str, Any], said: str
) -> None:
    numbers = {"output_tokens": 1.0, "input_tokens": 9.0, "cached_tokens": 0.0}
    rows = [*_rows("two\nlines", **numbers), {**_rows("y", query_id="b", **numbers)[1], **change}]
    place = {".csv": "line 6", ".jsonl": "line 3", ".parquet": r"row 2 \(counted from 0\)"}[suffix]
    with pytest.raises(OutcomesTableError, match=rf"^x\{suffix}, {place}.*{said}"):
        read_outcomes(_save(rows, tmp_path / f"x{suffix}"))


@pytest.mark.parametrize("content", [[{"content": "no role"}], [{"role": "user", "content": 7}]])
def test_what_is_no_chat_is_named_with_its_line(tmp_path: Path, content: Any) -> None:
    with pytest.raises(OutcomesTableError, match=r"x\.jsonl, line 1, column 'prompt': messages\[0\]"):
        read_outcomes(_save(_rows(content), tmp_path / "x.jsonl"))


@pytest.mark.parametrize("line", ["[]", '"text"', "{", "[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    file = _save(_rows("x"), tmp_path / "x.jsonl")
    file.write_text(file.read_text() + "\n" + line + "\n")
    with pytest.raises(OutcomesTableError, match=r"x\.jsonl, line 4"):
        read_outcomes(file)


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("query_id,prompt,model,score,score\na,x,m,1,0\n")
    with pytest.raises(OutcomesTableError, match="the column 'score' more than once"):
        read_outcomes(tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cached_tokens_cost_what_they_cost(tmp_path: Path, suffix: str) -> None:
    prices = {"input_price_per_1M": 4.0, "output_price_per_1M": 8.0, "cached_input_price_per_1M": 1.0}
    rows = _rows("x", input_tokens=100, cached_tokens=60, output_tokens=10, **prices)
    del rows[1]["cached_input_price_per_1M"]  # a model without a price for them pays the full one
    table = read_outcomes(_save(rows, tmp_path / f"x{suffix}"))
    np.testing.assert_allclose(table.cost_usd, [[(40 * 4 + 60 * 1 + 80) / 1e6, (400 + 80) / 1e6]])


def test_cached_tokens_of_a_folder_cost_what_they_cost(tmp_path: Path) -> None:
    pd.DataFrame({"query_id": ["a"], "prompt": ["x"]}).to_parquet(tmp_path / "queries.parquet")
    for name, value in (("scores", 1), ("input_tokens", 100), ("cached_tokens", 60), ("output_tokens", 10)):
        pd.DataFrame({"query_id": ["a"], "m": [value]}).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "models.csv").write_text(
        "model,input_price_per_1M,output_price_per_1M,cached_input_price_per_1M\nm,4,8,1\n"
    )
    table = read_outcomes(tmp_path)
    np.testing.assert_allclose(table.cost_usd, [[(40 * 4 + 60 * 1 + 80) / 1e6]])
    write_outcomes(table, tmp_path / "again")
    assert read_outcomes(tmp_path / "again").prices == table.prices == {"m": ModelPrice(4, 8, 1)}


def test_a_group_is_read_kept_and_written(tmp_path: Path) -> None:
    rows = [row for i in range(4) for row in _rows(f"x{i}", query_id=str(i), family=f"f{i % 2}")]
    for suffix in SUFFIXES:
        table = read_outcomes(_save(rows, tmp_path / f"x{suffix}"), group="family")
        assert table.groups.tolist() == [0, 1, 0, 1]
    write_outcomes(table, tmp_path / "folder")
    assert read_outcomes(tmp_path / "folder", group="group").groups.tolist() == [0, 1, 0, 1]
    with pytest.raises(OutcomesTableError, match=r"lacks the columns \['nothing'\]"):
        read_outcomes(tmp_path / "x.csv", group="nothing")
    torn = [{**row, "family": row["model"]} for row in rows]
    with pytest.raises(OutcomesTableError, match="column 'group' differs from an earlier row"):
        read_outcomes(_save(torn, tmp_path / "x.csv"), group="family")
