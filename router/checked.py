"""What comes from outside, checked by Pydantic.

The base of all sections of files; mistakes in words; and things that a name and options describe (strategies, pacers):
dataclasses whose fields with a `Doc` are the options that files, requests and the command line may set.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from apportion.router.errors import ApportionError, InvalidRequestError

Location = tuple[int | str, ...]
Built = TypeVar("Built")

SHOWN = 80  # characters of a wrong value that a message shows


class Section(BaseModel):
    """Base of everything read from a file: unknown fields are mistakes, numbers finite; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    wrong = [one["loc"] for one in details]
    # A list whose entries are wrong is empty for Pydantic, which then says that it is too short as well.
    details = [
        one
        for one in details
        if one["type"] != "too_short" or not one["input"] or not any(_within(place, one["loc"]) for place in wrong)
    ]
    return [Mistake((*prefix, *_path(one["loc"], drop_tags)), _problem(one, show_values)) for one in details]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message on a name that is not known: the known one that is most like it, if any is."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; the nearest is {found[0]!r}" if found else "; correct the name"


def _within(place: Location, outer: Location) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


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
    if mistake["type"] == "too_short":
        return f"must hold {mistake['ctx']['min_length']} or more, and holds {mistake['ctx']['actual_length']}; add one"
    if mistake["type"] == "model_type":
        return f"must be a mapping of fields, not a {type(mistake['input']).__name__}; correct it"
    text = mistake["msg"]
    text = text[0].lower() + text[1:] if text[1:2].islower() else text
    return f"{text} (got {mistake['input']!r:.{SHOWN}})" if show_values else text


@dataclass(frozen=True)
class Doc:
    """What an option means: `Annotated[float, Doc("...")]` on a dataclass's field opens it to the outside."""

    meaning: str


@dataclass(frozen=True)
class Option:
    """A field that may be set from outside."""

    name: str
    default: Any
    meaning: str
    adapter: TypeAdapter[Any]


@lru_cache
def options_of(kind: Any) -> dict[str, Option]:
    """The options of a dataclass by their names, in alphabetical order."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in sorted(fields(kind), key=lambda field: field.name):
        hint = hints[field.name]
        for doc in getattr(hint, "__metadata__", ()):
            if isinstance(doc, Doc):
                found[field.name] = Option(field.name, field.default, doc.meaning, TypeAdapter(hint))
    return found


def build(what: str, kinds: Mapping[str, type[Built]], name: str, options: Mapping[str, Any]) -> Built:
    """The thing of that name with these options, whose values are converted to the types of its fields.

    Args:
        what: the kind of thing, for messages.
        kinds: the dataclasses by their names.

    Raises:
        InvalidRequestError: the name or an option is unknown, or a value is wrong; `param` is the option's name.
    """
    if name not in kinds:
        raise InvalidRequestError(f"{what} {name!r}: unknown; use one of {', '.join(kinds)}", param=what)
    kind: Any = kinds[name]
    known = options_of(kind)
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        takes = ", ".join(known) or "none"
        raise InvalidRequestError(f"{what} {name!r}: no option {unknown[0]!r}; it takes {takes}", param=unknown[0])
    try:
        built: Built = kind(**{option: _value(known[option], given) for option, given in options.items()})
    except ApportionError as error:
        raise InvalidRequestError(f"{what} {name!r}: {error.message}", param=error.param) from error
    return built


def _value(option: Option, given: Any) -> Any:
    try:
        return option.adapter.validate_python(given)
    except ValidationError as error:
        mistake = mistakes(error, prefix=(option.name,), drop_tags=True)[0]
        raise InvalidRequestError(str(mistake), param=option.name) from error


def describe_kinds(kinds: Mapping[str, type[Any]]) -> str:
    """The names, each with the first sentence on it."""
    return " ".join(f"{name}: {(inspect.getdoc(kind) or '').partition(chr(10))[0]}" for name, kind in kinds.items())


def describe_options(kinds: Mapping[str, Any]) -> str:
    """The options of all kinds: who takes them, what they mean, and what holds without them."""
    takers: dict[tuple[str, str], list[str]] = {}
    for name, kind in kinds.items():
        for option in options_of(kind).values():
            default = "" if option.default is None else f", default {option.default}"
            takers.setdefault((option.name, option.meaning + default), []).append(name)
    lines = []
    for (label, meaning), names in takers.items():
        who = "all" if len(names) == len(kinds) else ", ".join(names)
        lines.append(f"{label} ({who}): {meaning}.")
    return " ".join(lines)
