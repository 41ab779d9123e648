"""What gives an answer its score in [0, 1]: a comparison, a regular expression, a Python function or a command."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from apportion.router.errors import ConfigurationError

Judge = Callable[[str, Mapping[str, Any]], Awaitable[float]]
"""Called with an answer and the row of the prompt that it is for; `expected` is the row's right answer."""

FORMS = "exact, regex, regex:PATTERN, command:COMMAND, or module:function"


def judge_of(spec: str, timeout_s: float) -> Judge:
    """The judge that a word describes.

    Args:
        spec: one of `FORMS`.
        timeout_s: how long a command may take for one answer.

    Raises:
        ConfigurationError: there is none of this form, or the pattern or function is wrong.
    """
    kind, _, rest = spec.partition(":")
    if spec == "exact":
        return _exact
    if kind == "regex":
        return _regex(rest)
    if kind == "command" and rest.strip():
        return _command(rest, timeout_s)
    if rest.strip() and kind.replace(".", "").isidentifier():
        return _function(kind, rest)
    raise ConfigurationError(f"judge {spec!r}: unknown; give {FORMS}")


def _expected(row: Mapping[str, Any]) -> list[str]:
    """The right answers of a row: one, or those of a list."""
    given = row.get("expected")
    answers = given if isinstance(given, list) else [given]
    if not answers or not all(isinstance(answer, str | int | float) for answer in answers):
        raise ConfigurationError(
            f"query {row['query_id']!r} has no `expected` that the judge can compare with; add a text, a number "
            "or a list of them to the prompt's line"
        )
    return [str(int(one)) if isinstance(one, float) and one.is_integer() else str(one) for one in answers]


def _is_expected(answer: str, row: Mapping[str, Any]) -> bool:
    return answer.strip() in [one.strip() for one in _expected(row)]


async def _exact(answer: str, row: Mapping[str, Any]) -> float:
    return float(_is_expected(answer, row))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"judge: {pattern!r} is no regular expression ({error}); correct it") from None


def _regex(pattern: str) -> Judge:
    """Whether the pattern (else one of the row's `expected`) is found; with a group, whether the last match's first
    group is what is expected.
    """
    fixed = _compiled(pattern) if pattern else None

    async def judge(answer: str, row: Mapping[str, Any]) -> float:
        if fixed is None or not fixed.groups:
            patterns = [fixed] if fixed is not None else [_compiled(one) for one in _expected(row)]
            return float(any(one.search(answer) for one in patterns))
        found = [match[1] for match in fixed.finditer(answer)]
        return float(bool(found) and _is_expected(found[-1] or "", row))

    return judge


def _function(module: str, name: str) -> Judge:
    """A function of an answer and its row, which may be a coroutine; else it runs in a thread. Modules in the current
    folder are found.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's own module raises
        raise ConfigurationError(
            f"judge {module}:{name} cannot be imported ({type(error).__name__}: {error}); correct name or module"
        ) from None

    async def judge(answer: str, row: Mapping[str, Any]) -> float:
        try:
            found = await asyncio.to_thread(function, answer, dict(row))
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:  # whatever the user's own code raises
            raise ConfigurationError(
                f"judge {module}:{name} failed on query {row['query_id']!r} ({type(error).__name__}: {error}); "
                "correct it"
            ) from error
        return _score(found, f"judge {module}:{name}", row)

    return judge


def _command(command: str, timeout_s: float) -> Judge:
    """A command that reads the row and `answer` as JSON from its standard input, and prints the score."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"judge command:{command}: {error}; correct its quotes") from None

    async def judge(answer: str, row: Mapping[str, Any]) -> float:
        given = json.dumps({**row, "answer": answer}).encode()
        try:
            done = await asyncio.to_thread(_run, words, given, timeout_s)
        except OSError as error:
            raise ConfigurationError(f"judge {words[0]!r} cannot be run ({error}); correct the command") from None
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"judge {words[0]!r} took more than {timeout_s:g} s for query {row['query_id']!r}; give "
                "--judge-timeout-s more"
            ) from None
        if done.returncode:
            raise ConfigurationError(
                f"judge {words[0]!r} ended with {done.returncode} for query {row['query_id']!r}; correct it"
            )
        return _score(done.stdout.decode(errors="replace").strip(), f"judge {words[0]!r}", row)

    return judge


def _run(words: list[str], given: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, input=given, stdout=subprocess.PIPE, timeout=timeout_s, check=False)


def _score(given: Any, who: str, row: Mapping[str, Any]) -> float:
    try:
        if isinstance(given, str):
            given = json.loads(given)
        score = float(given["score"] if isinstance(given, Mapping) else given)
    except (ValueError, TypeError, KeyError):
        score = math.nan
    if not 0 <= score <= 1:
        raise ConfigurationError(
            f"{who} gave no number from 0 to 1 for query {row['query_id']!r} but {given!r:.80}; correct it"
        )
    return score
