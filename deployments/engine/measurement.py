"""What is asked of a measuring process and what it answers; without vLLM, so that the asking process needs none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """What is measured: prompts and answers of these lengths, this many sequences at once, each so many times.

    by_cpu_time: seconds are those of processor time that the engine was given, so that what else runs on the machine
    does not count; where the processor is what limits it.
    """

    prompt_tokens: int
    answer_tokens: int
    sequences: tuple[int, ...]
    rounds: int = 5
    by_cpu_time: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """Medians over the rounds. decode_curve: (sequences running, output tokens/s of all of them).

    prompt_step_s: what a step takes longer because it reads a prompt as well, beside the prompt's tokens.
    """

    first_token_s: float
    prefill_tokens_per_s: float
    prompt_step_s: float
    decode_curve: tuple[tuple[int, float], ...]
