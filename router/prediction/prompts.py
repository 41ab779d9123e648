"""Reading requests for the commands: from a text file, or from JSON lines such as OpenAI request bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apportion.router.chat import content_of, flattened, joined, prompt_text
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.conversation import template_variables
from apportion.router.texts import numbered_lines, numbered_objects
from apportion.router.traits import PLAIN, Traits, traits_of


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
    traits: Traits = PLAIN

    @property
    def text(self) -> str:
        """What is encoded, and shown."""
        return prompt_text(self.content)


def read_requests(file: Path) -> list[PromptRequest]:
    """Requests of a file: a prompt a line, or for .jsonl an object a line with `prompt` or `messages`.

    A line of OpenAI's Batch API, and a chat in its printed form, are read too, and printed lists of strings where all
    prompts are such. An object may carry `max_tokens` or `max_completion_tokens`, `n`, `tools` and `response_format` as
    OpenAI bodies do.

    Raises:
        InvalidRequestError: a line cannot be read; names file and line.
    """
    if not file.is_file():
        raise InvalidRequestError(f"{file}: there is no such file; give a text file, one prompt a line, or a .jsonl")
    if file.suffix == ".jsonl":
        requests = [request_of(row, f"{file}, line {number}") for number, row in numbered_objects(file)]
    else:
        requests = [PromptRequest(line) for _, line in numbered_lines(file)]
    contents = joined([request.content for request in requests])
    requests = [replace(request, content=content) for request, content in zip(requests, contents, strict=True)]
    if not requests:
        raise InvalidRequestError(f"{file}: holds no prompts; write one a line")
    return requests


def request_of(row: Mapping[str, Any], where: str) -> PromptRequest:
    """The request that an object describes: a line of a file of prompts, of OpenAI's Batch API, or a request's body.

    Raises:
        InvalidRequestError: it asks nothing, or a field is wrong; the message begins with `where`.
    """
    row = flattened(row)
    given = content_of(row)
    if not isinstance(given, str | list):
        raise InvalidRequestError(f'{where}: give an object with "prompt" or "messages", or a line of the Batch API')
    try:
        prompt_text(given)  # refuses what is no chat, before anything is loaded
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error.message}", param=error.param) from None
    return PromptRequest(
        content=given,
        max_tokens=_whole(row, "max_completion_tokens", where) or _whole(row, "max_tokens", where),
        sequences=_whole(row, "n", where) or 1,
        tools=_tools(row, where),
        template_variables=template_variables(row),
        traits=traits_of(given, row),
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
