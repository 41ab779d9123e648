"""Messages between the service's own processes as bytes: pickled, and dataclasses with slots several times faster.

Only for bytes whose sender is known to be of this service: whoever writes them says what this process runs.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any


def pack(value: Any) -> bytes:
    """The value as bytes."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(value)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """The value that was packed."""
    return pickle.loads(data)


Reduce = Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]


class _Reducers(dict[type, Reduce]):
    """How to take objects apart, by their types; a type that is no dataclass with slots is left to pickle."""

    def __missing__(self, kind: type) -> Reduce:
        if not is_dataclass(kind) or "__slots__" not in vars(kind):
            raise KeyError(kind)
        names = [field.name for field in fields(kind)]
        # The second name makes it a tuple where there is but one field.
        values = attrgetter(*names, "__class__")

        def reduce(one: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return _rebuilt, (kind, values(one)[:-1])

        self[kind] = reduce
        return reduce


_REDUCERS = _Reducers()


def _rebuilt(kind: type, values: tuple[Any, ...]) -> Any:
    """As it was, without being initialised again."""
    one: Any = object.__new__(kind)
    for set_value, value in zip(_setters(kind), values, strict=True):
        set_value(one, value)
    return one


@functools.cache
def _setters(kind: type) -> tuple[Callable[[Any, Any], None], ...]:
    return tuple(getattr(kind, field.name).__set__ for field in fields(kind))
