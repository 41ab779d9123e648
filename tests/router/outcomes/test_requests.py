"""What outcomes files say of requests beside their prompts: tools, schemas, pictures, turns, system prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes import read_outcomes, write_outcomes
from apportion.router.outcomes.columns import row_of
from apportion.router.outcomes.requests import requests
from apportion.router.outcomes.table import TRAIT_COLUMNS
from apportion.router.traits import PLAIN, Traits

TOOL = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object"}}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}


def _turn(role: str, text: str, *more: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}, *more]}


CHAT = [
    _turn("system", "Be brief."),
    _turn("user", "What is this?", PICTURE),
    _turn("assistant", "A bolt."),
    _turn("user", "How many?"),
]
ASKED = {"messages": CHAT, "tools": [TOOL], "response_format": {"type": "json_object"}}
FOUND = Traits(tools=1, structured_outputs=1, images=1, turns=3, system_chars=9)
EMPTY = (None, None, None)


def _rows(printed: Any = None) -> list[dict[str, Any]]:
    """A chat with everything, with its fields printed where a way to print is given, and a plain prompt."""
    asked = {name: value if printed is None else printed(value) for name, value in ASKED.items()}
    rich = {"query_id": "rich", "prompt": None, **asked}
    poor = {"query_id": "poor", "prompt": "What is 1?", **dict(zip(ASKED, EMPTY, strict=True))}
    return [{**row, "model": model, "score": 1.0} for row in (rich, poor) for model in ("m1", "m2")]


@pytest.mark.parametrize(
    ("suffix", "printed"),
    [(".jsonl", None), (".parquet", None), (".parquet", json.dumps), (".csv", json.dumps), (".csv", repr)],
)
def test_fields_beside_a_chat_are_read_in_every_form(tmp_path: Path, suffix: str, printed: Any) -> None:
    file = tmp_path / f"x{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in _rows()))
    elif suffix == ".csv":
        pd.DataFrame(_rows(printed)).to_csv(file, index=False)
    else:
        pd.DataFrame(_rows(printed)).to_parquet(file, index=False)
    assert read_outcomes(file).traits == [FOUND, PLAIN]


def test_a_batch_line_is_read_as_its_body_and_a_written_table_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    line = {"custom_id": "rich", "url": "/v1/chat/completions", "body": ASKED, "model": "m1", "score": 0.5}
    file.write_text(json.dumps(line) + "\n" + json.dumps({**line, "custom_id": "poor", "body": {"prompt": "a"}}) + "\n")
    table = read_outcomes(file)
    assert table.traits == [FOUND, PLAIN]
    write_outcomes(table, tmp_path / "folder")
    again = read_outcomes(tmp_path / "folder")
    assert (again.traits, again.data_hash()) == (table.traits, table.data_hash())
    assert table.subset([1]).traits == [PLAIN]


def test_a_picture_alone_is_a_request(tmp_path: Path) -> None:
    line = {"query_id": "a", "messages": [{"role": "user", "content": [PICTURE]}], "model": "m1", "score": 1}
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n")
    table = read_outcomes(tmp_path / "x.jsonl")
    write_outcomes(table, tmp_path / "folder")
    for one in (table, read_outcomes(tmp_path / "folder")):
        assert (one.prompts, one.traits) == ([""], [Traits(images=1)])


def test_what_a_request_is_belongs_to_what_was_learned_from(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    line = {"query_id": "a", "prompt": "a", "model": "m1", "score": 1}
    hashes = []
    for more in ({}, {"tools": [TOOL]}, {"tools": []}):
        file.write_text(json.dumps(line | more) + "\n")
        hashes.append(read_outcomes(file).data_hash())
    assert hashes[0] == hashes[2] != hashes[1]
    assert not set(TRAIT_COLUMNS) & set(read_outcomes(file).queries)


def test_counts_may_stand_for_what_is_no_longer_there(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("query_id,prompt,model,score,request_tools,request_turns\na,x,m,1,4,\nb,y,m,0,,7\n")
    assert read_outcomes(tmp_path / "x.csv").traits == [Traits(tools=4), Traits(turns=7)]


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("tools", "stock", "give a list of objects as OpenAI's bodies have it"),
        ("tools", 3, "give a list of objects"),
        ("tools", {"name": "stock"}, "give a list of objects"),
        ("response_format", "json_object", "give an object as OpenAI's bodies have it, or name the column otherwise"),
        ("structured_outputs", [1], "give an object"),
        ("request_tools", -1, "finite and not negative"),
    ],
)
def test_a_field_that_is_none_is_told_with_its_place(tmp_path: Path, column: str, cell: Any, said: str) -> None:
    line = {"query_id": "a", "prompt": "a", "model": "m1", "score": 1, column: cell}
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(OutcomesTableError, match=rf"x\.jsonl, line 1, column '{column}'.*{said}"):
        read_outcomes(tmp_path / "x.jsonl")


def test_one_query_is_one_request(tmp_path: Path) -> None:
    line = {"query_id": "a", "prompt": "a", "score": 1}
    lines = [line | {"model": "m1", "tools": [TOOL]}, line | {"model": "m2"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(OutcomesTableError, match="line 2, column 'request_tools' differs from an earlier row"):
        read_outcomes(tmp_path / "x.jsonl")


def test_a_table_without_rows_has_no_requests() -> None:
    assert requests(pd.DataFrame({"prompt": [], "tools": []}), row_of("x")) == {"prompt": []}


def test_where_a_cell_stands_is_worked_out_for_mistakes_alone() -> None:
    """In a CSV its lines are counted for that, which must not be done for every chat."""

    def at(row: int) -> str:
        raise AssertionError(row)

    frame = pd.DataFrame({"messages": [CHAT, json.dumps(CHAT)], "prompt": [None, "Grüße"], "tools": [[TOOL], None]})
    assert len(requests(frame, at)["prompt"]) == 2


@pytest.mark.parametrize("wrong", [[-1], [0.5], ["many"]])
def test_counts_in_a_table_are_whole_numbers(wrong: list[Any]) -> None:
    from tests.samples import make_outcomes

    table = make_outcomes(1, seed=0)
    with pytest.raises(OutcomesTableError, match="'request_turns': give whole numbers from 0"):
        type(table)(table.queries.assign(request_turns=wrong), table.models, *[table.scores] * 4)
