"""Reading prompts for the commands: from the command line, a text file, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.chat import prompt_text


def read_prompts(file: Path) -> list[str]:
    """Prompts of a file: one a line, or for .jsonl one object a line with `prompt` or `messages`.

    Raises InvalidRequestError naming the line that cannot be read.
    """
    if not file.is_file():
        raise InvalidRequestError(f"file {file}: there is none, give a text file, one prompt a line, or a .jsonl file")
    lines = numbered_lines(file)
    if not lines:
        raise InvalidRequestError(f"file {file}: it holds no prompts")
    if file.suffix != ".jsonl":
        return [line for _, line in lines]
    return [_from_json(line, f"{file}, line {number}") for number, line in lines]


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers in the file, from 1.

    Raises InvalidRequestError when the file is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"file {file}: it is not UTF-8, save it with this encoding") from error
    # `splitlines` also splits where a prompt may: at form feeds, and at the separators that JSON leaves as they are.
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _from_json(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"{where} is not JSON ({error}): write one object a line") from error
    given = row.get("prompt", row.get("messages")) if isinstance(row, dict) else None
    if not isinstance(given, str | list):
        raise InvalidRequestError(f'{where}: give an object with "prompt" or "messages"')
    return prompt_text(given)
