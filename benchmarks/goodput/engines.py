"""Simulated engines of different speeds, in virtual time; named so in the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray

SLOTS = 32  # of every engine


@dataclass(frozen=True)
class Speed:
    """Of one engine, in seconds: to begin, for each token of a prompt, and for a step: alone, and more a sequence."""

    begin_s: float
    read_s: float
    step_s: float
    beside_s: float

    def answer_s(self, prompt: float, answer: float, running: float) -> float:
        """From a request's dispatch to its last token."""
        return self.begin_s + self.read_s * prompt + (self.step_s + self.beside_s * running) * answer


# About what models of 1, 8, 30 and 70 billion parameters take on one GPU each.
SPEEDS = {
    "wren": Speed(0.02, 2e-5, 0.004, 5e-5),
    "finch": Speed(0.03, 5e-5, 0.008, 1e-4),
    "lark": Speed(0.05, 1e-4, 0.015, 2.5e-4),
    "heron": Speed(0.08, 2e-4, 0.030, 6e-4),
}


def capacity_per_s(prompt: float, answer: float) -> float:
    """Requests a second that all engines answer with every slot taken."""
    return sum(SLOTS / speed.answer_s(prompt, answer, SLOTS) for speed in SPEEDS.values())


class Engines:
    """One engine a model; all that is in flight, as arrays."""

    def __init__(self) -> None:
        speeds = SPEEDS.values()
        self._step_s = np.array([speed.step_s for speed in speeds])
        self._beside_s = np.array([speed.beside_s for speed in speeds])
        self._speeds = tuple(speeds)
        self.names: list[str] = []
        self._model: IntArray = np.zeros(0, np.int64)
        self._begin_s: FloatArray = np.zeros(0)  # that are left, as these:
        self._tokens: FloatArray = np.zeros(0)

    def start(self, name: str, model: int, prompt: float, answer: float) -> None:
        """A request comes to the engine of this model."""
        speed = self._speeds[model]
        self.names.append(name)
        self._model = np.append(self._model, model)
        self._begin_s = np.append(self._begin_s, speed.begin_s + speed.read_s * prompt)
        self._tokens = np.append(self._tokens, answer)

    def pass_time(self, seconds: float) -> list[str]:
        """Names of the requests that end within so many seconds."""
        running = np.bincount(self._model, minlength=len(self._speeds))
        step_s = np.asarray(self._step_s + self._beside_s * running, np.float64)[self._model]
        beginning = np.minimum(self._begin_s, seconds)
        self._begin_s = self._begin_s - beginning
        self._tokens = self._tokens - (seconds - beginning) / step_s
        over: BoolArray = self._tokens <= 0
        ended = [name for name, ends in zip(self.names, over.tolist(), strict=True) if ends]
        self.names = [name for name, ends in zip(self.names, over.tolist(), strict=True) if not ends]
        self._model, self._begin_s, self._tokens = self._model[~over], self._begin_s[~over], self._tokens[~over]
        return ended
