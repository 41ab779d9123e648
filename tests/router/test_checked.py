"""Mistakes in words: the same ones wherever Pydantic finds them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError, field_validator

from apportion.router.checked import Mistake, Section, mistakes


class Inner(Section):
    size: int
    tag: str | list[str] = "a"

    @field_validator("size")
    @classmethod
    def _even(cls, size: int) -> int:
        if size % 2:
            raise ValueError(f"{size} is odd; give an even number")
        return size


class Outer(Section):
    inner: tuple[Inner, ...]


def found(content: Any, kind: Any = Outer, **settings: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(content)
    return [str(mistake) for mistake in mistakes(caught.value, **settings)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "inner: missing; add it"),
        ({"inner": [{"size": 2, "colour": 1}]}, "inner.0.colour: unknown field; remove it or correct its name"),
        ({"inner": [{"size": 3}]}, "inner.0.size: 3 is odd; give an even number"),
        (
            {"inner": [{"size": "much"}]},
            "inner.0.size: input should be a valid integer, unable to parse string as an integer (got 'much')",
        ),
        ("text", "(whole): must be a mapping of fields, not a str; correct it"),
    ],
)
def test_every_mistake_names_field_problem_and_mend(content: Any, says: str) -> None:
    assert found(content) == [says]


def test_values_can_be_kept_out() -> None:
    assert "secret" not in str(found({"inner": [{"size": "secret"}]}, show_values=False))


def test_a_prefix_says_where_and_tags_of_unions_are_no_fields() -> None:
    lines = found({"inner": [{"size": 2, "tag": 1}]}, prefix=("file",), drop_tags=True)
    assert {line.partition(":")[0] for line in lines} == {"file.inner.0.tag"}


def test_a_long_value_is_cut() -> None:
    assert len(found({"inner": "x" * 1000})[0]) < 200


def test_the_field_is_the_path_in_one_word() -> None:
    assert Mistake(("a", 0, "b"), "wrong").field == "a.0.b"
