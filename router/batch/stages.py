"""The two stages of a cascade: a first answer, and what becomes of it when its signals are known."""

from __future__ import annotations

from dataclasses import dataclass

from apportion.router.signals import Signals

_SECOND = "-0"


@dataclass(frozen=True, slots=True)
class Second:
    """The second stage of a cascade, should its first answer not be sure enough.

    Args:
        id: of the attempt that it would be; its worst case is set aside under it from the first decision on.
        model: that would be asked.
        charge: what asking it counted for when the first was decided, in success.
        probability: of asking it, as it was expected then.
    """

    id: str
    model: str
    charge: float
    probability: float


def second_id(first: str) -> str:
    """Of the second stage of the attempt of this id: no other attempt's, for these are numbered from 1."""
    return f"{first}{_SECOND}"


def first_id(second: str) -> str:
    """Of the first stage of a second one; of any other attempt, its own."""
    return second.removesuffix(_SECOND)


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The answer that a cascade's first stage has come to.

    Args:
        model: that gave it.
        second: what was decided of the second stage.
        signals: how sure the model was.
    """

    model: str
    second: Second
    signals: Signals


@dataclass(frozen=True, slots=True)
class Kept:
    """A cascade's first answer is the answer.

    Args:
        id: of the second stage, which holds nothing any more.
        success: of the first answer, its signals known; None: nobody has looked at them.
    """

    id: str
    success: float | None
