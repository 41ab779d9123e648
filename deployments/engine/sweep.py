"""Measures one real vLLM engine: time to the first token, reading speed, and tokens/s by sequences running.

Imported in measuring processes only, since it imports vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import psutil
from vllm import SamplingParams, TokensPrompt
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.measurement import Measurement, Sweep
from apportion.deployments.engine.vllm_engine import parse_engine_args

PREFILL_PROMPTS = 16
FIRST_TOKENS = 31
INTERRUPTED = 16


def measure_engine(model: ModelConfig, sweep: Sweep) -> Measurement:
    """Starts the engine with the model's own arguments, measures, and stops it."""
    return asyncio.run(_measure(model, sweep))


async def _measure(model: ModelConfig, sweep: Sweep) -> Measurement:
    async with running_engine(model) as llm:
        load = _Load(llm, sweep)
        await load.run(min(8, sweep.sequences[-1]), min(8, sweep.answer_tokens))  # the first requests compile and warm
        first_s = await load.first_token_s()
        prefill = [await load.prefill_tokens_per_s() for _ in range(sweep.rounds)]
        curve = []
        for sequences in sweep.sequences:
            speeds = [await load.decode_tokens_per_s(sequences) for _ in range(sweep.rounds)]
            curve.append((sequences, float(np.median(speeds))))
        prefill_tokens_per_s = float(np.median(prefill))
        longer_s = [await load.interruption_s() for _ in range(sweep.rounds)]
        prompt_step_s = max(0.0, float(np.median(longer_s)) - sweep.prompt_tokens / prefill_tokens_per_s)
        return Measurement(first_s, prefill_tokens_per_s, prompt_step_s, tuple(curve))


@contextlib.asynccontextmanager
async def running_engine(model: ModelConfig) -> AsyncIterator[AsyncLLM]:
    """The engine as a replica starts it, while the context lasts."""
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(parse_engine_args(model)))
    try:
        yield llm
    finally:
        llm.shutdown()


async def token_times_s(llm: AsyncLLM, request_id: str, prompt: Sequence[int], answer_tokens: int) -> list[float]:
    """When each of the so many tokens of an answer came, by `time.perf_counter`; the answer does not end before."""
    sampling = SamplingParams(
        temperature=0, max_tokens=answer_tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    came_s: list[float] = []
    async for output in llm.generate(TokensPrompt(prompt_token_ids=list(prompt)), sampling, request_id):
        came_s += [time.perf_counter()] * len(output.outputs[0].token_ids)
    return came_s


class Meter:
    """Processor time of this process and of those that it started, since the meter was made."""

    def __init__(self) -> None:
        self._started_s, self._cpu_s = time.perf_counter(), _cpu_s()

    def cores(self) -> float:
        """Cores that were used on average; what takes no tick of the clock counts as one tick."""
        return max(_cpu_s() - self._cpu_s, 0.01) / (time.perf_counter() - self._started_s)


def _cpu_s() -> float:
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


class _Load:
    """Random prompts, all different, so that no cached prefix helps."""

    def __init__(self, llm: AsyncLLM, sweep: Sweep) -> None:
        self._llm = llm
        self._sweep = sweep
        self._draw = np.random.default_rng(sweep.seed)
        self._vocabulary = llm.model_config.get_vocab_size()
        self._ids = itertools.count()

    async def first_token_s(self) -> float:
        meter, waits_s = Meter(), []
        for _ in range(FIRST_TOKENS):
            started_s = time.perf_counter()
            (came_s,) = await self.run(1, 1)
            waits_s.append(came_s[0] - started_s)
        return float(np.median(waits_s)) * self._cores(meter)

    async def prefill_tokens_per_s(self) -> float:
        meter, started_s = Meter(), time.perf_counter()
        answers = await self.run(PREFILL_PROMPTS, 1)
        ended_s = max(came_s[-1] for came_s in answers)
        return PREFILL_PROMPTS * self._sweep.prompt_tokens / (ended_s - started_s) / self._cores(meter)

    async def decode_tokens_per_s(self, sequences: int) -> float:
        """Tokens that came while all sequences were running: after the last prompt was read, before an answer ended."""
        meter = Meter()
        answers = await self.run(sequences, self._sweep.answer_tokens)
        cores = self._cores(meter)
        started_s = max(came_s[0] for came_s in answers)
        ended_s = min(came_s[-1] for came_s in answers)
        tokens = sum(started_s < token_s <= ended_s for came_s in answers for token_s in came_s)
        return tokens / (ended_s - started_s) / cores

    async def interruption_s(self) -> float:
        """What one prompt delays the sequences that run: answers with prompts read in between, and without."""
        sequences = min(INTERRUPTED, self._sweep.sequences[-1])
        step_s = sequences / await self.decode_tokens_per_s(sequences)
        meter = Meter()
        running = asyncio.gather(*(self._ask(self._sweep.answer_tokens) for _ in range(sequences)))
        read_s: list[float] = []
        while not running.done():
            read_s += await self._ask(1)
        answers, cores = await running, self._cores(meter)
        started_s, ended_s = max(came_s[0] for came_s in answers), min(came_s[-1] for came_s in answers)
        steps = sum(started_s < token_s <= ended_s for token_s in answers[0])
        prompts = sum(started_s < token_s <= ended_s for token_s in read_s)
        return ((ended_s - started_s) * cores - steps * step_s) / max(prompts, 1)

    def _cores(self, meter: Meter) -> float:
        return meter.cores() if self._sweep.by_cpu_time else 1.0

    async def run(self, sequences: int, answer_tokens: int) -> list[list[float]]:
        return list(await asyncio.gather(*(self._ask(answer_tokens) for _ in range(sequences))))

    async def _ask(self, answer_tokens: int) -> list[float]:
        prompt = self._draw.integers(0, self._vocabulary, self._sweep.prompt_tokens).tolist()
        return await token_times_s(self._llm, f"measure-{next(self._ids)}", prompt, answer_tokens)
