"""Reading requests for the commands: from a text file, or from tables such as JSON lines of OpenAI request bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apportion.router.answer_length import least_tokens
from apportion.router.chat import content_of, flattened, joined, prompt_text
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.conversation import template_variables
from apportion.router.prediction.request_files import rows_of
from apportion.router.texts import streamed_lines
from apportion.router.traits import PLAIN, Traits, traits_of


@dataclass(frozen=True)
class PromptRequest:
    """One request of a file: a prompt or a chat's messages, and what limits its answers.

    `max_tokens` None: only the model's context ends an answer. `sequences` is the body's `n`. `where` it was read from,
    as `file, line 3`, where that is known. An answer has `min_tokens` at least, as far as they fit.
    """

    content: str | list[dict[str, Any]]
    max_tokens: int | None = None
    sequences: int = 1
    tools: list[dict[str, Any]] | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    traits: Traits = PLAIN
    min_tokens: int = 0
    where: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """What is encoded, and shown."""
        return prompt_text(self.content)

    @property
    def is_text(self) -> bool:
        """Whether it is a prompt alone, and no chat."""
        return isinstance(self.content, str)


SUFFIXES = (".jsonl", ".csv", ".parquet")
_NOT_READ = {".gz", ".json", ".tsv", ".xlsx", ".zip"}  # would be taken for a prompt a line


def read_requests(file: Path) -> list[PromptRequest]:
    """Requests of a file, as `RequestFile` reads them."""
    return list(RequestFile.checked(file))


@dataclass(frozen=True)
class RequestFile:
    """Requests of a file, one in memory at a time: a prompt a line, or for SUFFIXES a row with `prompt` or `messages`.

    A line of OpenAI's Batch API, and a chat in its printed form, are read too, and printed lists of strings where all
    prompts are such. A row may carry `max_tokens` or `max_completion_tokens`, `n`, `tools` and `response_format` as
    OpenAI bodies do.

    rows: how many; lists: whether all prompts are printed lists of strings.
    """

    path: Path
    rows: int
    lists: bool

    @classmethod
    def checked(cls, path: Path) -> RequestFile:
        """The file, read once to see that every row can be.

        Raises:
            InvalidRequestError: a row cannot be read; names file and line.
        """
        if not path.is_file():
            known = ", ".join(SUFFIXES)
            raise InvalidRequestError(f"{path}: there is no such file; give a text file, one prompt a line, or {known}")
        if path.suffix in _NOT_READ:
            raise InvalidRequestError(f"{path}: {path.suffix} is not read; give a text file or {', '.join(SUFFIXES)}")
        rows, lists = 0, True
        for request in _requests(path):
            rows += 1
            lists = lists and not (request.is_text and joined([request.content]) == [request.content])
        if not rows:
            raise InvalidRequestError(f"{path}: holds no prompts; write one a line")
        return cls(path, rows, lists)

    def __iter__(self) -> Iterator[PromptRequest]:
        for request in _requests(self.path):
            yield replace(request, content=joined([request.content])[0]) if self.lists and request.is_text else request


def _requests(file: Path) -> Iterator[PromptRequest]:
    if file.suffix in SUFFIXES:
        return (request_of(row, where) for where, row in rows_of(file))
    return (PromptRequest(line, where=f"{file}, line {number}") for number, line in streamed_lines(file))


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
    longest = _whole(row, "max_completion_tokens", where) or _whole(row, "max_tokens", where)
    return PromptRequest(
        content=given,
        max_tokens=longest,
        sequences=_whole(row, "n", where) or 1,
        tools=_tools(row, where),
        template_variables=template_variables(row),
        traits=traits_of(given, row),
        min_tokens=least_tokens(row, longest),
        where=where,
    )


def _whole(row: Mapping[str, Any], field: str, where: str) -> int | None:
    value = row.get(field)
    if isinstance(value, float) and value.is_integer():  # as tables have it whose other rows have none
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidRequestError(f"{where}: {field} is {value!r}; give a whole number from 1")
    return value


def _tools(row: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    value = row.get("tools")
    if value is not None and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise InvalidRequestError(f"{where}: tools is no list of objects; write it as OpenAI bodies do")
    return value
