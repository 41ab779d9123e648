"""What comes from outside, checked by Pydantic: the base of all sections of files, and mistakes in words."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]

SHOWN = 80  # characters of a wrong value that a message shows


class Section(BaseModel):
    """Base of everything read from a file: unknown fields are mistakes; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Mistake:
    """One wrong field: `location` is its path, `problem` says what is wrong with it and what to do."""

    location: Location
    problem: str

    @property
    def field(self) -> str:
        """The path in one word, `models.0.name`."""
        return ".".join(map(str, self.location))

    def __str__(self) -> str:
        return f"{self.field or '(whole)'}: {self.problem}"


def mistakes(
    error: ValidationError, *, prefix: Location = (), show_values: bool = True, drop_tags: bool = False
) -> list[Mistake]:
    """Everything that Pydantic found wrong, in the words that all messages of the project use.

    Args:
        prefix: path of what was checked inside of what the reader wrote.
        show_values: whether to show what the fields hold; not where that may be a secret.
        drop_tags: whether to leave out the types that Pydantic puts into the path of a union's member.
    """
    details = error.errors(include_url=False)
    return [Mistake((*prefix, *_path(one["loc"], drop_tags)), _problem(one, show_values)) for one in details]


def _path(location: Location, drop_tags: bool) -> Location:
    if not drop_tags:
        return location
    return tuple(part for part in location if isinstance(part, int) or (part.isidentifier() and part not in _TYPES))


_TYPES = {"str", "int"}


def _problem(mistake: ErrorDetails, show_values: bool) -> str:
    if mistake["type"] == "extra_forbidden":
        return "unknown field; remove it or correct its name"
    if mistake["type"] == "missing":
        return "missing; add it"
    if mistake["type"] == "value_error":
        # Raised by a check of the project's own, whose text says what it is about.
        return str(mistake["ctx"]["error"])
    text = mistake["msg"]
    text = text[0].lower() + text[1:] if text[1:2].islower() else text
    return f"{text} (got {mistake['input']!r:.{SHOWN}})" if show_values else text
