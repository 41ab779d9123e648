"""The loads: how requests arrive and what they ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.zoo.tasks import Example

SHORT, LONG = "short", "long"
SHORT_TOKENS = 32
LONG_TOKENS = 96


@dataclass(frozen=True)
class Case:
    """One load. `concurrency` at a time, or `rate_per_s` at random instants.

    answers: `short` are the zoo's own, graded; `long` go on for a fixed number of tokens whatever the model says, so
    that the engines have most of the work, and grading them would mean nothing.
    """

    answers: str
    stream: bool
    requests: int
    concurrency: int | None = None
    rate_per_s: float | None = None

    @property
    def name(self) -> str:
        arrival = f"{self.concurrency} at a time" if self.concurrency else f"{self.rate_per_s:.0f}/s at random"
        return f"{arrival}, {self.answers}{', streamed' if self.stream else ''}"

    def body(self, example: Example, model: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": example.prompt}],
            "temperature": 0,
            "max_tokens": SHORT_TOKENS if self.answers == SHORT else LONG_TOKENS,
            "stream": self.stream,
        }
        return body if self.answers == SHORT else body | {"ignore_eos": True}


def closed_cases(scale: float) -> list[Case]:
    """1, 4, 16 and 64 at a time; long answers, up to more at a time than three engines have slots.

    Args:
        scale: of the numbers of requests; 1 takes some seconds a case.
    """
    short = {1: 30, 4: 60, 16: 128, 64: 192}
    long = {64: 128, 192: 384}

    def size(requests: int, concurrency: int) -> int:
        return max(round(requests * scale), 2 * concurrency, 8)

    cases = [Case(SHORT, stream, size(n, c), concurrency=c) for stream in (False, True) for c, n in short.items()]
    return cases + [Case(LONG, stream, size(n, c), concurrency=c) for stream in (False, True) for c, n in long.items()]
