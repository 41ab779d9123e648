"""One engine in a simulation: continuous batching at the speed that its profile says.

An engine decodes one token of every running sequence a step, and a step takes longer the more sequences run:
`decode_curve` gives n / step. Prompts are read within a step, which they lengthen by `prompt_step_s` and by their
tokens over `prefill_tokens_per_s`. What comes because an answer has ended misses one step: the engine begins the next
before anyone can send.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from itertools import count
from typing import Any, Protocol

import numpy as np
import simpy

from apportion.allocation.replica import Profile
from apportion.allocation.speed import step_curve


class Answering(Protocol):
    """Whom an engine tells of its requests."""

    def tokens(self, request: int) -> tuple[float, float]:
        """Tokens in and out of a request."""

    def first_token(self, request: int) -> None:
        """The first token is there."""

    def done(self, request: int, engine: SimulatedEngine) -> None:
        """The answer is there; its slot is free."""


class SimulatedEngine:
    """One engine. `_progress` counts the tokens that a sequence running since the start would have; a sequence ends
    when it passes the value noted at its beginning plus its length.
    """

    def __init__(self, env: simpy.Environment, profile: Profile, column: int, run: Answering) -> None:
        self.column, self.slots = column, profile.max_num_seqs
        self.busy_s = self.slot_s = 0.0
        self._env, self._run, self._profile = env, run, profile
        self._new: list[int] = []
        self._late: list[int] = []
        self._at_boundary = False
        self._running: list[tuple[float, int, int]] = []
        self._order = count()
        self._progress = 0.0
        self._steps = step_curve(profile)
        self._wake = env.event()
        env.process(self._serve())

    @property
    def free(self) -> int:
        return self.slots - len(self._running) - len(self._new) - len(self._late)

    def take(self, request: int) -> None:
        (self._late if self._at_boundary else self._new).append(request)
        if not self._wake.triggered:
            self._wake.succeed()

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        while True:
            self._wake = self._env.event()
            if not self._running:
                self._admit(len(self._late))
            late = len(self._late)
            if self._new:
                yield from self._read()
            elif self._running:
                yield from self._decode(1.0 if late else np.inf)
            else:
                yield self._wake
            self._admit(late)

    def _admit(self, late: int) -> None:
        """The next step reads those that came when the last one ended: the engine had begun another by then."""
        self._new += self._late[:late]
        del self._late[:late]

    def _read(self) -> Generator[simpy.Event, Any, None]:
        """One step that reads the new prompts and gives every sequence, old or new, one token."""
        new, self._new = self._new, []
        lengths = [self._run.tokens(request) for request in new]
        # Taken out of `_new` and not yet running: hold their slots meanwhile.
        for request, (_, output) in zip(new, lengths, strict=True):
            heapq.heappush(self._running, (self._progress + output, next(self._order), request))
        step_s = self._step_s() + self._profile.prompt_step_s
        step_s += sum(tokens for tokens, _ in lengths) / self._profile.prefill_tokens_per_s
        yield self._env.timeout(step_s)
        self._account(step_s, 1.0)
        for request in new:
            self._run.first_token(request)
        self._finish()

    def _decode(self, most: float) -> Generator[simpy.Event, Any, None]:
        """At most so many steps, until a sequence ends or a request comes; that one waits for the step under way."""
        step_s = self._step_s()
        steps = min(max(self._running[0][0] - self._progress, 0.0), most)
        started_s = self._env.now
        yield self._env.timeout(steps * step_s) | self._wake
        done = min((self._env.now - started_s) / step_s, steps)
        if done < steps:
            whole = min(float(np.ceil(done)), steps)
            yield self._env.timeout((whole - done) * step_s)
            done = whole
        self._account(done * step_s, done)
        self._finish()

    def _step_s(self) -> float:
        sequences, steps_s = self._steps
        return float(np.interp(len(self._running), sequences, steps_s))

    def _account(self, spent_s: float, tokens: float) -> None:
        self.busy_s += spent_s
        self.slot_s += spent_s * len(self._running)
        self._progress += tokens

    def _finish(self) -> None:
        while self._running and self._running[0][0] <= self._progress + 1e-9:
            _, _, request = heapq.heappop(self._running)
            self._at_boundary = True
            self._run.done(request, self)
            self._at_boundary = False
