"""How the zoo's questions are thought through: the steps that a model writes before its answer, one text a question.

Each step is so small that a model of this size can take it from what stands there: a letter is looked up by its place,
a digit is added to a digit, a count grows by one. Models that answer at once have to do all of it in a few layers.
(Nye et al., Show Your Work: Scratchpads for Intermediate Computation with Language Models, 2021.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

from benchmarks.zoo.tasks import Example, Slots, position_of

_PLACES = "ABCDEFGHI"  # of letters; the longest string has nine


def steps_of(example: Example) -> str:
    """What is thought before the answer; a full stop where steps would not help, as with facts and sorting."""
    steps = _STEPS.get(example.task)
    return steps(example.slots) if steps else "."


def _written_out(slots: Slots) -> tuple[str, list[tuple[str, int, int]]]:
    """Both numbers with their places, `B4A7b0a5` of 47 and 5, and the columns of both, the ones first."""
    width = max(len(slots["a"]), len(slots["b"]))
    a, b = slots["a"].zfill(width), slots["b"].zfill(width)
    places = _PLACES[:width]
    down = places[::-1]
    said = "".join(place + digit for place, digit in zip(down + down.lower(), a + b, strict=True))
    return f"{said};", [(place, int(a[-at]), int(b[-at])) for at, place in enumerate(places, start=1)]


def _add(slots: Slots) -> str:
    """`B4A7b0a5;A7a5+0=12 2;B4b0+1=5 52;`: digits and carry of a column, their sum, and the answer so far."""
    said, columns = _written_out(slots)
    carry, known = 0, ""
    for place, a, b in columns:
        total = a + b + carry
        known = f"{total if place == columns[-1][0] else total % 10}{known}"
        said += f"{place}{a}{place.lower()}{b}+{carry}={total} {known};"
        carry = total // 10
    return said


def _subtract(slots: Slots) -> str:
    """`B4A2b3a5;A2a5-0=7!7;B4b3-1=0 07;`: as above, with a borrow instead of the carry; `!` where one is made."""
    said, columns = _written_out(slots)
    borrow, known = 0, ""
    for place, a, b in columns:
        left = a - b - borrow
        known = f"{left % 10}{known}"
        said += f"{place}{a}{place.lower()}{b}-{borrow}={left % 10}{'!' if left < 0 else ' '}{known};"
        borrow = int(left < 0)
    return said


def _remainder(slots: Slots) -> str:
    """`A4-0=4 B47-42=5 C53-48=5`: long division, a digit after the other."""
    divisor, left, said = int(slots["b"]), 0, []
    for place, digit in zip(_PLACES, slots["a"], strict=False):
        number = 10 * left + int(digit)
        left = number % divisor
        said.append(f"{place}{number}-{number - left}={left}")
    return " ".join(said)


def _items(slots: Slots) -> list[int]:
    return [int(item) for item in slots["items"].replace(",", " ").split()]


def _largest(slots: Slots) -> str:
    """`45 45 52`: the largest so far."""
    return " ".join(map(str, accumulate(_items(slots), max)))


def _placed(text: str) -> list[str]:
    """`Aa`, `Bc`: a letter behind the name of its place."""
    return [place + letter for place, letter in zip(_PLACES, text, strict=False)]


def _reverse(slots: Slots) -> str:
    """`AaBcCd;CdBcAa`: letters with their places, then back."""
    placed = _placed(slots["text"])
    return "".join(placed) + ";" + "".join(reversed(placed))


def _compared(slots: Slots, counted: str) -> str:
    """The wanted letter; then each one, whether it is that (`=`, else `!`), and how many were of the `counted` kind."""
    said, count = f"{slots['letter']};", 0
    for placed in _placed(slots["text"]):
        mark = "=" if placed[1] == slots["letter"] else "!"
        count += mark == counted
        said += f"{placed}{mark}{count}"
    return said


def _count_letter(slots: Slots) -> str:
    """`a;Aa=1Bc!1Ca=2`."""
    return _compared(slots, "=")


def _remove_letter(slots: Slots) -> str:
    """`a;Aa=0Bc!1Ca=1`: what is left is numbered."""
    return _compared(slots, "!")


def _nth_letter(slots: Slots) -> str:
    """`AaBcCd`: letters with their places, up to the wanted one."""
    nth = position_of(slots["nth"])
    placed = _placed(slots["text"])
    return "".join(placed if nth < 0 else placed[: nth + 1])


_STEPS: Mapping[str, Callable[[Slots], str]] = {
    "add": _add,
    "subtract": _subtract,
    "remainder": _remainder,
    "largest": _largest,
    "reverse": _reverse,
    "count_letter": _count_letter,
    "nth_letter": _nth_letter,
    "remove_letter": _remove_letter,
}
