"""Reading requests for the commands: from a text file, or from JSON lines such as OpenAI request bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.chat import prompt_text
from apportion.router.prediction.conversation import template_variables


@dataclass(frozen=True)
class PromptRequest:
    """One request of a file: a prompt or a chat's messages, and what limits its answers.

    `max_tokens` None: only the model's context ends an answer. `sequences` is the body's `n`.
    """

    content: str | list[dict[str, Any]]
    max_tokens: int | None = None
    sequences: int = 1
    tools: list[dict[str, Any]] | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is encoded, and shown."""
        return prompt_text(self.content)


def read_requests(file: Path) -> list[PromptRequest]:
    """Requests of a file: a prompt a line, or for .jsonl an object a line with `prompt` or `messages`.

    An object may carry `max_tokens` or `max_completion_tokens`, `n` and `tools` as OpenAI bodies do.

    Raises:
        InvalidRequestError: a line cannot be read; names file and line.
    """
    if not file.is_file():
        raise InvalidRequestError(f"{file}: there is no such file; give a text file, one prompt a line, or a .jsonl")
    lines = numbered_lines(file)
    if not lines:
        raise InvalidRequestError(f"{file}: holds no prompts; write one a line")
    if file.suffix != ".jsonl":
        return [PromptRequest(line) for _, line in lines]
    return [_from_json(line, f"{file}, line {number}") for number, line in lines]


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers in the file, from 1.

    Raises:
        InvalidRequestError: the file is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{file} is not UTF-8; save it with this encoding") from error
    # `splitlines` also splits where a prompt may: at form feeds, and at the separators that JSON leaves as they are.
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _from_json(line: str, where: str) -> PromptRequest:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"{where} is not JSON ({error}); write one object a line") from error
    given = row.get("prompt", row.get("messages")) if isinstance(row, dict) else None
    if not isinstance(given, str | list):
        raise InvalidRequestError(f'{where}: give an object with "prompt" or "messages"')
    prompt_text(given)  # refuses what is no chat, before anything is loaded
    return PromptRequest(
        content=given,
        max_tokens=_whole(row, "max_completion_tokens", where) or _whole(row, "max_tokens", where),
        sequences=_whole(row, "n", where) or 1,
        tools=_tools(row, where),
        template_variables=template_variables(row),
    )


def _whole(row: Mapping[str, Any], field: str, where: str) -> int | None:
    value = row.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidRequestError(f"{where}: {field} is {value!r}; give a whole number from 1")
    return value


def _tools(row: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    value = row.get("tools")
    if value is not None and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise InvalidRequestError(f"{where}: tools is no list of objects; write it as OpenAI bodies do")
    return value
