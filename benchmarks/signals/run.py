"""What signals cost a real engine: the same completions without them, with them, and as JSON that a client asks for."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from apportion.deployments.config.reader import read_config
from apportion.deployments.wire.engine_headers import SIGNALS_ASKED_HEADER
from apportion.deployments.wire.logprobs import asking_for_logprobs
from benchmarks.load.chat import PATH, Answer, ask, chat_session, greedy_chat
from benchmarks.load.numbers import ratio_range
from benchmarks.signals.engine import engine_port
from benchmarks.stamp import stamp
from benchmarks.zoo.tasks import generate

AT_ONCE = (1, 16, 64)
TOKENS = 32
TIMEOUT_S = 300.0
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
    speeds: dict[int, dict[str, list[float]]] = {}
    with engine_port(found) as url:
        for at_once in AT_ONCE:
            speeds[at_once] = asyncio.run(_rounds(url, model, prompts, at_once, rounds, seconds, console))
    return {
        "stamp": stamp(model=model, rounds=rounds, seconds=seconds, tokens=TOKENS, seed=seed),
        "at_once": {str(at_once): told_of(one) for at_once, one in speeds.items()},
    }


def told_of(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Tokens a second of every way, and how they compare with the plain one of the same round."""
    plain = np.array(speeds[PLAIN])
    return {
        "tokens_per_s": {way: float(np.median(values)) for way, values in speeds.items()},
        "over_plain": {
            way: ratio_range((np.array(values) / plain).tolist()) for way, values in speeds.items() if way != PLAIN
        },
    }


async def _rounds(
    url: str, model: str, prompts: list[str], at_once: int, rounds: int, seconds: float, console: Console
) -> dict[str, list[float]]:
    """Tokens a second by way, one a round."""
    speeds: dict[str, list[float]] = {PLAIN: [], SIGNALS: [], JSON: []}
    ways = list(speeds)
    warm = await _speed(url, model, prompts, at_once, 4 * at_once, PLAIN)
    requests = max(at_once, round(warm * seconds / TOKENS))
    for turn in track(range(rounds), f"{at_once} at a time", console=console):
        # Each way comes first, second and last in turn.
        for way in ways[turn % 3 :] + ways[: turn % 3]:
            speeds[way].append(await _speed(url, model, prompts, at_once, requests, way))
    return speeds


async def _speed(url: str, model: str, prompts: list[str], at_once: int, requests: int, way: str) -> float:
    """Output tokens a second of so many answers, so many at a time."""
    todo = iter(range(requests))

    async with chat_session(TIMEOUT_S) as session:

        async def client() -> list[Answer]:
            answers = []
            for number in todo:
                body = greedy_chat(prompts[number % len(prompts)], model, TOKENS) | {"ignore_eos": True}
                asked = asking_for_logprobs(body) if way == JSON else body
                answers.append(await ask(session, url + PATH, asked, MARK if way == SIGNALS else None))
            return answers

        began_s = time.perf_counter()
        found = await asyncio.gather(*(client() for _ in range(at_once)))
        took_s = time.perf_counter() - began_s
    answers = list(itertools.chain.from_iterable(found))
    if failed := [answer.error for answer in answers if answer.error]:
        raise RuntimeError(f"{len(failed)} of {len(answers)} requests failed, the first with {failed[0]}")
    return sum(answer.output_tokens for answer in answers) / took_s
