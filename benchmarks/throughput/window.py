"""A window of requests at random instants, whose answers go on for as many tokens as each demands, and are graded.

The service is asked for all tokens up to `max_tokens` (`ignore_eos`) with the special ones in the text, so that a
decode is as long as it would be for a longer answer, and what stands before the first end of text is the model's own
answer, word for word what it would have been alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from benchmarks.load.arrivals import open_loop, poisson_arrivals_s
from benchmarks.load.chat import PATH, Answer, ask, chat_session
from benchmarks.load.cpu import CLIENT, cpu_seconds, load_average, spent_ms
from benchmarks.load.numbers import mix
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import Example
from benchmarks.zoo.tokenizer import END

TIMEOUT_S = 120.0
FEWEST_TOKENS, MOST_TOKENS = 24, 160
PREDICTED_HEADER = "x-router-predicted-seconds"


@dataclass(frozen=True)
class Load:
    """Questions with the lengths of their answers and their arrivals."""

    examples: Sequence[Example]
    tokens: IntArray
    arrivals_s: Sequence[float]

    @classmethod
    def draw(cls, examples: Sequence[Example], rate_per_s: float, seconds: float, seed: int) -> Load:
        """Poisson arrivals for about so many seconds; lengths are uniform in their logarithm."""
        count = max(round(rate_per_s * seconds), 8)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(examples), count, replace=count > len(examples))
        tokens = np.exp(rng.uniform(np.log(FEWEST_TOKENS), np.log(MOST_TOKENS), count)).astype(np.int64)
        return cls([examples[i] for i in chosen], tokens, poisson_arrivals_s(count, rate_per_s, seed))

    @property
    def rate_per_s(self) -> float:
        """Offered."""
        return len(self.arrivals_s) / self.arrivals_s[-1]

    def body(self, number: int, max_seconds: float | None) -> dict[str, Any]:
        """A request's; None: it says nothing of time."""
        return {
            "model": "auto",
            "messages": [{"role": "user", "content": self.examples[number].prompt}],
            "temperature": 0,
            "max_tokens": int(self.tokens[number]),
            "ignore_eos": True,
            "skip_special_tokens": False,
            "routing": {} if max_seconds is None else {"max_seconds": max_seconds},
        }


@dataclass(frozen=True)
class Window:
    """What came back of a load, each array (N,).

    Args:
        seconds: from sending to the last byte; inf of what failed.
        right: whether the answer is.
        usd: settled.
        engine_s: from dispatch to the last byte, by the service's own clock. predicted_s: the same, as the Router
            expected it; NaN where it did not say.
        client_cpu: of the load generator, cores.
    """

    load: Load
    seconds: FloatArray
    right: BoolArray
    usd: FloatArray
    engine_s: FloatArray
    predicted_s: FloatArray
    mix: dict[str, int]
    errors: list[str]
    client_cpu: float
    load_average: float

    @classmethod
    def measure(cls, url: str, load: Load, max_seconds: float | None) -> Window:
        """Sends the load."""
        before = cpu_seconds()
        answers, seconds = asyncio.run(_send(url, load, max_seconds))
        client_s = spent_ms(before, cpu_seconds())[CLIENT] / 1e3
        return cls(
            load,
            np.array([np.inf if answer.error else answer.latency_s for answer in answers]),
            np.array([_right(answer, example) for answer, example in zip(answers, load.examples, strict=True)]),
            np.array([answer.cost_usd or 0.0 for answer in answers]),
            np.array([answer.spans_ms.get("engine", np.nan) / 1e3 for answer in answers]),
            np.array([float(answer.headers.get(PREDICTED_HEADER, "nan")) for answer in answers]),
            mix(answers),
            [answer.error for answer in answers if answer.error],
            client_s / seconds,
            load_average(),
        )

    def numbers(self, target_s: float) -> dict[str, Any]:
        """Shares of all requests, rates of those offered, percentiles of those answered."""
        in_time, answered = self.seconds <= target_s, self.seconds[np.isfinite(self.seconds)]
        p50, p95 = np.percentile(answered, [50, 95]) if len(answered) else (np.nan, np.nan)
        return {
            "requests": len(self.seconds),
            "errors": len(self.errors),
            "error_examples": sorted(set(self.errors))[:3],
            "in_time": float(in_time.mean()),
            "goodput_per_s": float(self.load.rate_per_s * in_time.mean()),
            "right": float(self.right.mean()),
            "right_in_time": float((self.right & in_time).mean()),
            "right_in_time_per_s": float(self.load.rate_per_s * (self.right & in_time).mean()),
            "p50_s": float(p50),
            "p95_s": float(p95),
            "usd_per_1000": 1e3 * float(self.usd.mean()),
            "mix": self.mix,
            "client_cpu": self.client_cpu,
            "load_average": self.load_average,
        }


def calibration(windows: Sequence[Window]) -> dict[str, Any]:
    """How predicted seconds compare with those that answers took: their ratio, and whether the one orders the other."""
    from scipy.stats import spearmanr

    predicted = np.concatenate([window.predicted_s for window in windows])
    taken = np.concatenate([window.engine_s for window in windows])
    both = np.isfinite(predicted) & np.isfinite(taken)
    found: dict[str, Any] = {"requests": int(both.sum()), "unknown": int((~both).sum())}
    if both.sum() < 2:
        return found | {"p10": None, "p50": None, "p90": None, "rank_correlation": None}
    p10, p50, p90 = np.percentile(predicted[both] / taken[both], [10, 50, 90])
    order = spearmanr(predicted[both], taken[both]).statistic
    return found | {"p10": float(p10), "p50": float(p50), "p90": float(p90), "rank_correlation": float(order)}


async def _send(url: str, load: Load, max_seconds: float | None) -> tuple[list[Answer], float]:
    async with chat_session(TIMEOUT_S) as session:

        async def call(number: int) -> Answer:
            return await ask(session, url + PATH, load.body(number, max_seconds))

        return await open_loop(call, list(load.arrivals_s))


def _right(answer: Answer, example: Example) -> bool:
    return not answer.error and grade(answer.text.split(END, 1)[0], example) == 1.0
