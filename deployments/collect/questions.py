"""The prompts of a collection: what is sent to the models, and what judges are told beside an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apportion.router.chat import content_of, flattened, joined
from apportion.router.errors import InvalidRequestError
from apportion.router.prediction.prompts import request_of
from apportion.router.texts import numbered_lines, numbered_objects
from apportion.router.traits import FIELDS

# What a line may say of how it is to be asked; the rest of a line is for the judge alone.
PARAMETERS = frozenset(
    {"max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed", *FIELDS}
    | {"presence_penalty", "frequency_penalty", "reasoning_effort", "chat_template_kwargs"}
    | {"top_k", "min_p", "repetition_penalty", "logit_bias", "parallel_tool_calls", "verbosity"}
)
# Of a line of the Batch API all is sent but what the collection says itself.
_NOT_SENT = frozenset({"model", "messages", "prompt", "n", "stream", "stream_options"})


@dataclass(frozen=True)
class Question:
    """One prompt (a text, or a chat's messages), its parameters, and the row that a judge is given."""

    query_id: str
    task: str
    content: str | list[dict[str, Any]]
    parameters: Mapping[str, Any]
    row: Mapping[str, Any]

    def body(self, shared: Mapping[str, Any], *, completions: bool) -> dict[str, Any]:
        """The request but for its model; the line's own parameters come before the shared ones."""
        asked = {**shared, **self.parameters}
        if "max_completion_tokens" in self.parameters and "max_tokens" not in self.parameters:
            asked.pop("max_tokens", None)
        if self._is_completed(completions):
            return {"prompt": self.content, **asked}
        messages = [{"role": "user", "content": self.content}] if isinstance(self.content, str) else self.content
        return {"messages": messages, **asked}

    def digest(self, *, completions: bool) -> str:
        """What tells whether a recorded answer is to this question, asked in this way."""
        way = ["completions"] if self._is_completed(completions) else []
        asked = json.dumps([self.content, dict(self.parameters), *way], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def _is_completed(self, completions: bool) -> bool:
        return completions and isinstance(self.content, str)


def read_questions(file: Path) -> list[Question]:
    """The questions of a text file (a prompt a line) or of a .jsonl, as `read_requests` reads them; a line may have
    `query_id` (else `custom_id` or its number), `task` and `expected`.

    Raises:
        InvalidRequestError: there is no file, a line cannot be read, or two have one id.
    """
    if not file.is_file():
        raise InvalidRequestError(f"{file}: there is no such file; give a text file, one prompt a line, or a .jsonl")
    if file.suffix == ".jsonl":
        rows = numbered_objects(file)
    else:
        rows = [(number, {"prompt": line}) for number, line in numbered_lines(file)]
    if not rows:
        raise InvalidRequestError(f"{file}: holds no prompts; write one a line")
    found: dict[str, Question] = {}
    for number, row in rows:
        question = _question(row, number, f"{file}, line {number}")
        if question.query_id in found:
            raise InvalidRequestError(
                f"{file}, line {number}: query_id {question.query_id!r} occurs before; change one"
            )
        found[question.query_id] = question
    contents = joined([question.content for question in found.values()])
    return [replace(question, content=content) for question, content in zip(found.values(), contents, strict=True)]


def _question(line: dict[str, Any], number: int, where: str) -> Question:
    request_of(line, where)
    row = dict(flattened(line))
    query_id, task = row.get("query_id", row.get("custom_id")), row.get("task")
    for name, value in (("query_id", query_id), ("task", task)):
        if value is not None and not isinstance(value, str | int):
            raise InvalidRequestError(f"{where}: {name} is a {type(value).__name__}; give a text")
    query_id = str(number) if query_id is None else str(query_id)
    body = line.get("body")
    sent = PARAMETERS & row.keys() | (body.keys() - _NOT_SENT if isinstance(body, dict) else set())
    parameters = {name: row[name] for name in sorted(sent) if row[name] is not None}
    return Question(
        query_id, "" if task is None else str(task), content_of(row), parameters, {**row, "query_id": query_id}
    )
