"""What signals cost a real engine: the same completions without them, with them, and as JSON that a client asks for."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from apportion.deployments.config.reader import read_config
from apportion.deployments.wire.engine_headers import SIGNALS_ASKED_HEADER
from apportion.deployments.wire.logprobs import asking_for_logprobs
from apportion.router.arrays import FloatArray
from benchmarks.load.chat import PATH, Answer, ask, chat_session, greedy_chat
from benchmarks.load.cpu import cpu_seconds, load_average
from benchmarks.signals.engine import engine_port
from benchmarks.stamp import stamp
from benchmarks.zoo.tasks import generate

AT_ONCE = (1, 16, 64)
TOKENS = 32
TIMEOUT_S = 300.0
BOOTSTRAPS = 2_000
PLAIN, SIGNALS, JSON = "plain", "signals", "json"
MARK = {SIGNALS_ASKED_HEADER: "1"}


def run(config: Path, model: str, rounds: int, seconds: float, seed: int, console: Console) -> dict[str, Any]:
    """Rounds of all three ways at every concurrency, in turn; each as long as `seconds`, at the plain way's speed.

    Raises:
        ValueError: the configuration has no such model.
        RuntimeError: a request failed.
    """
    found = next((one for one in read_config(config).service.models if one.name == model), None)
    if found is None:
        raise ValueError(f"model: there is no {model!r} in {config}; name one of its models")
    prompts = [example.prompt for example in generate("test", 256, seed)]
    spent: dict[int, dict[str, FloatArray]] = {}
    with engine_port(found) as (url, process):
        for at_once in AT_ONCE:
            engine = Engine(url, process, model, prompts, at_once)
            spent[at_once] = asyncio.run(_rounds(engine, rounds, seconds, console))
    return {
        "stamp": stamp(model=model, rounds=rounds, seconds=seconds, tokens=TOKENS, seed=seed),
        "load_average": load_average(),
        "at_once": {str(at_once): told_of(one, seed) for at_once, one in spent.items()},
    }


def told_of(spent: dict[str, FloatArray], seed: int) -> dict[str, Any]:
    """Medians of every way, and how they compare with the plain one of the same round.

    Args:
        spent: by way (n_rounds, 2): milliseconds a token, of time and of the engine's CPU.
    """
    return {
        "ms_a_token": {way: np.median(values, axis=0).tolist() for way, values in spent.items()},
        "over_plain": {
            way: [median_interval(values[:, column] / spent[PLAIN][:, column], seed) for column in range(2)]
            for way, values in spent.items()
            if way != PLAIN
        },
    }


def median_interval(ratios: FloatArray, seed: int) -> dict[str, float]:
    """The median, and its 95 % interval over bootstrapped rounds."""
    drawn = np.random.default_rng(seed).choice(ratios, (BOOTSTRAPS, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Engine:
    """What is asked, and how: `at_once` chats at a time."""

    url: str
    process: int
    model: str
    prompts: list[str]
    at_once: int

    async def spent(self, requests: int, way: str) -> tuple[float, float]:
        """Milliseconds a token of so many answers: of time, and of CPU of the engine's processes.

        Raises:
            RuntimeError: a request failed.
        """
        todo = iter(range(requests))
        async with chat_session(TIMEOUT_S) as session:

            async def client() -> list[Answer]:
                return [await ask(session, self.url + PATH, *self._body(number, way)) for number in todo]

            before_s, began_s = self._cpu_s(), time.perf_counter()
            found = await asyncio.gather(*(client() for _ in range(self.at_once)))
            took_s, cpu_s = time.perf_counter() - began_s, self._cpu_s() - before_s
        answers = list(itertools.chain.from_iterable(found))
        if failed := [answer.error for answer in answers if answer.error]:
            raise RuntimeError(f"{len(failed)} of {len(answers)} requests failed, the first with {failed[0]}")
        tokens = sum(answer.output_tokens for answer in answers)
        return 1e3 * took_s / tokens, 1e3 * cpu_s / tokens

    def _body(self, number: int, way: str) -> tuple[dict[str, Any], dict[str, str] | None]:
        body = greedy_chat(self.prompts[number % len(self.prompts)], self.model, TOKENS) | {"ignore_eos": True}
        return (asking_for_logprobs(body) if way == JSON else body), (MARK if way == SIGNALS else None)

    def _cpu_s(self) -> float:
        return cpu_seconds({"engine": self.process})["engine"]


async def _rounds(engine: Engine, rounds: int, seconds: float, console: Console) -> dict[str, FloatArray]:
    """By way (n_rounds, 2), as `Engine.spent` has them."""
    ways = (PLAIN, SIGNALS, JSON)
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    warm_ms, _ = await engine.spent(4 * engine.at_once, PLAIN)
    requests = max(engine.at_once, round(1e3 * seconds / (warm_ms * TOKENS)))
    for turn in track(range(rounds), f"{engine.at_once} at a time", console=console):
        # Each way comes first, second and last in turn.
        for way in ways[turn % 3 :] + ways[: turn % 3]:
            spent[way].append(await engine.spent(requests, way))
    return {way: np.array(values) for way, values in spent.items()}
