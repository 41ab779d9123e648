"""How the project speaks: error messages in lower case without a full stop, and loggers named after their modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.arrows import sources
from tests.paths import ROOT

SOURCES = sources(ROOT, ("router", "allocation", "deployments", "benchmarks"))

# A message may start with these: they are written with a capital letter everywhere.
NAMES = {
    *("API", "CPU", "CPUs", "CSV", "GET", "GPU", "GPUs", "HTTP", "JSON", "POST", "SHA", "URL", "USD", "UTF", "YAML"),
    *("HiGHS", "HAProxy", "Hugging", "MiniLM", "OpenAI", "PostgreSQL", "Predictor", "Pyomo", "Ray", "Router"),
    *("RouterBench", "SQLite", "Serve"),
    "Unrecognized",  # OpenAI's own words for an unknown field, which clients look for
}


def messages(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each error's message that stands in the module; what is filled in is a `*`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.args and _name(node.func).endswith("Error"):
            message = _text(node.args[0])
            if message.strip("*"):
                yield node.lineno, message


def faults(text: str) -> list[str]:
    """The messages that are not in the dialect."""
    return [f"line {line}: {message}" for line, message in messages(text) if _is_foreign(message)]


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "*"


def _is_foreign(message: str) -> bool:
    first = re.match(r"[A-Z]\w*", message)
    return (first is not None and first[0] not in NAMES) or message.rstrip().endswith(".")


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_error_messages_start_in_lower_case_and_end_without_a_full_stop(module: str) -> None:
    assert not faults(SOURCES[module])


@pytest.mark.parametrize(
    ("source", "foreign"),
    [
        ('raise ValueError("no file: give one")', False),
        ('raise ValueError("OpenAI knows no such field")', False),
        ('raise ValueError(f"{path}: not YAML")', False),
        ("raise errors.BudgetError(message)", False),
        ('raise ValueError("No file: give one")', True),
        ('raise ValueError(f"{path}: not YAML.")', True),
        ('return InvalidRequestError("Models " + name)', True),
        ('raise ValueError("no file in " f"{path}: give one.")', True),
    ],
)
def test_a_planted_message_is_seen(source: str, foreign: bool) -> None:
    assert bool(faults(source)) is foreign


def test_loggers_are_named_after_their_modules() -> None:
    for module, text in SOURCES.items():
        if module != "deployments.wire.logs":  # which joins the project's logger to Serve's
            assert set(re.findall(r"getLogger\((.*?)\)", text)) <= {"__name__"}, module
