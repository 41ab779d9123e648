"""Real engines under load: one process each, all at the same time, so that they share the cores as in a plan."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.measure import engine_environment, keep_to_core
from apportion.router.arrays import FloatArray, IntArray

WARM_REQUESTS = 16
_barrier: Barrier | None = None


@dataclass(frozen=True, eq=False)
class Load:
    """Requests for one engine: tokens in and out, (n,), and the clients that send them one after the other."""

    name: str
    input_tokens: IntArray
    output_tokens: IntArray
    concurrency: int


@dataclass(frozen=True, eq=False)
class Run:
    """Requests that were answered within the window: when they came and ended, seconds from its start.

    cores: of processor time that the engine was given meanwhile.
    """

    arrival_s: FloatArray
    end_s: FloatArray
    output_tokens: IntArray
    cores: float


def run_engines(
    models: Sequence[ModelConfig], cores: Sequence[int], loads: Sequence[Sequence[Load]], window_s: float
) -> list[list[Run]]:
    """The runs of each model's loads; all models run their first load at the same time, then their second, ...

    Args:
        cores: the number of the core that each model's engine is kept to.
    """
    context = get_context("spawn")
    start = (context.Barrier(len(models)),)
    with (
        engine_environment(models[0]),
        ProcessPoolExecutor(len(models), mp_context=context, initializer=_keep_barrier, initargs=start) as pool,
    ):
        work = [pool.submit(_run, *args, window_s) for args in zip(models, cores, loads, strict=True)]
        return [future.result() for future in work]


def _keep_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _run(model: ModelConfig, core: int, loads: Sequence[Load], window_s: float) -> list[Run]:
    keep_to_core(core)
    return asyncio.run(_serve(model, loads, window_s))


async def _serve(model: ModelConfig, loads: Sequence[Load], window_s: float) -> list[Run]:
    from apportion.deployments.engine.sweep import running_engine

    runs = []
    async with running_engine(model) as llm:
        engine = _Engine(llm, model.max_num_seqs)
        await engine.play(_warm(loads[0]), window_s)
        for load in loads:
            if _barrier is not None:
                await asyncio.to_thread(_barrier.wait)
            runs.append(await engine.play(load, window_s))
    return runs


def _warm(load: Load) -> Load:
    rows = slice(0, WARM_REQUESTS)
    return Load("warm", load.input_tokens[rows], load.output_tokens[rows], WARM_REQUESTS)


class _Engine:
    """Sends loads to one engine through as many seats as it has slots, as the router does."""

    def __init__(self, llm: Any, slots: int) -> None:
        self._llm = llm
        self._slots = slots
        self._draw = np.random.default_rng(0)
        self._sent = 0

    async def play(self, load: Load, window_s: float) -> Run:
        """Until the window closes or all requests are answered; what is unfinished then is cancelled."""
        from apportion.deployments.engine.sweep import Meter

        seats = asyncio.Semaphore(self._slots)
        meter = Meter()
        started_s = time.perf_counter()
        rows: list[tuple[float, float, int]] = []

        async def ask(row: int) -> None:
            came_s = time.perf_counter() - started_s
            async with seats:
                await self._answer(int(load.input_tokens[row]), int(load.output_tokens[row]))
            rows.append((came_s, time.perf_counter() - started_s, int(load.output_tokens[row])))

        unsent = iter(range(len(load.input_tokens)))

        async def client() -> None:
            for row in unsent:
                await ask(row)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(client() for _ in range(load.concurrency))), window_s)
        cores = meter.cores()
        answered = np.array(rows).reshape(-1, 3)
        return Run(answered[:, 0], answered[:, 1], answered[:, 2].astype(np.int64), cores)

    async def _answer(self, input_tokens: int, output_tokens: int) -> None:
        from apportion.deployments.engine.sweep import token_times_s

        self._sent += 1
        prompt = self._draw.integers(0, self._llm.model_config.get_vocab_size(), input_tokens).tolist()
        await token_times_s(self._llm, f"run-{self._sent}", prompt, output_tokens)
