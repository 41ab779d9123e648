"""Discrete-event check of a plan: requests queue for slots, and engines serve them as fast as their profiles say.

An engine decodes one token of every running sequence a step (continuous batching), and a step takes longer the more
sequences run: `decode_curve` gives n / step. Prompts are read within a step, which they lengthen by `prompt_step_s`
and by their tokens over `prefill_tokens_per_s`. What comes because an answer has ended misses one step: the engine
begins the next before anyone can send. Free slots are filled first come, first served, on the replica with the most of
them. What happens outside of engines (HTTP, planning, batching) is left out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import simpy

from apportion.allocation.plan import Plan
from apportion.allocation.replica import Profile
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.errors import InfeasibleError, InvalidRequestError


@dataclass(frozen=True, eq=False)
class Traffic:
    """n requests: the model (index into the plan's), tokens in and out, and when they arrive in seconds, ascending.

    concurrency instead of arrival_s: that many clients, each of which sends its next request when one is answered.
    """

    model: IntArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    arrival_s: FloatArray | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if (self.arrival_s is None) == (self.concurrency is None):
            raise InvalidRequestError("Traffic has either `arrival_s` or `concurrency`: give one of them.")
        if len(self.model) == 0:
            raise InvalidRequestError("Traffic without requests cannot be simulated: give at least one.")
        if (self.output_tokens < 1).any():
            raise InvalidRequestError("`output_tokens` below 1: an answer has at least one token.")


@dataclass(frozen=True, eq=False)
class Simulation:
    """What became of each request, (n,) seconds, and of each replica, (n_replicas,).

    waited_s: for a slot; first_token_s, latency_s: since arrival. busy: share of the time that the replica decoded
    or read; slots_used: mean share of its slots that were taken. queue: (n_changes, 2) time in s and requests waiting.
    """

    arrival_s: FloatArray
    waited_s: FloatArray
    first_token_s: FloatArray
    latency_s: FloatArray
    output_tokens: FloatArray
    model: IntArray
    busy: FloatArray
    slots_used: FloatArray
    queue: FloatArray

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last answer."""
        return float((self.arrival_s + self.latency_s).max() - self.arrival_s.min())

    def summary(self, models: Sequence[str], deadline_s: float) -> dict[str, Any]:
        """Percentiles, throughput, goodput (answers within the deadline), queue and utilisation, plain numbers."""
        everything = self._row(np.ones(len(self.model), dtype=bool), deadline_s)
        waiting, held_s = self.queue[:, 1], np.diff(self.queue[:, 0], append=self.queue[-1, 0])
        return {
            **everything,
            "duration_s": self.duration_s,
            "queue_mean": float((waiting * held_s).sum() / max(held_s.sum(), 1e-12)),
            "queue_max": int(waiting.max()),
            "busy_mean": float(self.busy.mean()),
            "slots_used_mean": float(self.slots_used.mean()),
            "models": {
                name: self._row(self.model == column, deadline_s)
                for column, name in enumerate(models)
                if (self.model == column).any()
            },
        }

    def _row(self, rows: BoolArray, deadline_s: float) -> dict[str, Any]:
        times = {"latency_s": self.latency_s, "first_token_s": self.first_token_s, "waited_s": self.waited_s}
        percentiles = {
            f"{name}_p{level}": float(np.percentile(values[rows], level))
            for name, values in times.items()
            for level in (50, 95, 99)
        }
        good = int((self.latency_s[rows] <= deadline_s).sum())
        return {
            "requests": int(rows.sum()),
            "requests_per_s": float(rows.sum() / self.duration_s),
            "tokens_per_s": float(self.output_tokens[rows].sum() / self.duration_s),
            "goodput_per_s": good / self.duration_s,
            "within_deadline": good / int(rows.sum()),
            **percentiles,
        }


def poisson_arrivals(n_requests: int, rate_per_s: float, seed: int) -> FloatArray:
    """Arrival times in s of so many requests that come independently at this rate."""
    return np.random.default_rng(seed).exponential(1 / rate_per_s, n_requests).cumsum()


def simulate(plan: Plan, traffic: Traffic) -> Simulation:
    """Replays the traffic against the plan's replicas.

    Raises:
        InfeasibleError: a request's model has no replica in the plan.
        InvalidRequestError: a model's index is not of the plan.
    """
    profiles = [(plan.profile(placed.replica), placed.replica.model) for placed in plan.placements]
    return _Run(profiles, [model.name for model in plan.models], traffic).simulation()


class _Run:
    """One simulation: a first-come queue a model, the replicas, and the clock."""

    def __init__(self, profiles: Sequence[tuple[Profile, str]], models: Sequence[str], traffic: Traffic) -> None:
        self._traffic = traffic
        self._env = simpy.Environment()
        n = len(traffic.model)
        self._arrival_s, self._start_s, self._first_s, self._end_s = (np.full(n, np.nan) for _ in range(4))
        self._waiting: dict[int, deque[int]] = {column: deque() for column in range(len(models))}
        self._queue: list[tuple[float, int]] = [(0.0, 0)]
        self.replicas: list[_Replica] = []
        self._of_model: dict[int, list[_Replica]] = {column: [] for column in range(len(models))}
        for profile, name in profiles:
            column = models.index(name)
            replica = _Replica(self._env, profile, column, self)
            self.replicas.append(replica)
            self._of_model[column].append(replica)
        self._check(models)
        self._unsent = iter(range(n))

    def simulation(self) -> Simulation:
        if self._traffic.arrival_s is not None:
            self._env.process(self._open(self._traffic.arrival_s))
        else:
            for _ in range(self._traffic.concurrency or 1):
                self._send_next()
        self._env.run()
        total_s = max(float(np.nanmax(self._end_s)), 1e-12)
        return Simulation(
            arrival_s=self._arrival_s,
            waited_s=self._start_s - self._arrival_s,
            first_token_s=self._first_s - self._arrival_s,
            latency_s=self._end_s - self._arrival_s,
            output_tokens=self._traffic.output_tokens,
            model=self._traffic.model,
            busy=np.array([replica.busy_s / total_s for replica in self.replicas]),
            slots_used=np.array([replica.slot_s / replica.slots / total_s for replica in self.replicas]),
            queue=np.array([*self._queue, (total_s, self._queue[-1][1])]),
        )

    def tokens(self, request: int) -> tuple[float, float]:
        """Tokens in and out of a request."""
        return float(self._traffic.input_tokens[request]), float(self._traffic.output_tokens[request])

    def first_token(self, request: int) -> None:
        self._first_s[request] = self._env.now

    def done(self, request: int, replica: _Replica) -> None:
        """A request is answered: its slot takes the next of its model, its client sends the next of all."""
        self._end_s[request] = self._env.now
        waiting = self._waiting[replica.column]
        if waiting:
            self._seat(waiting.popleft(), replica)
            self._note()
        if self._traffic.concurrency is not None:
            self._send_next()

    def _check(self, models: Sequence[str]) -> None:
        columns = np.unique(self._traffic.model)
        if columns.min() < 0 or columns.max() >= len(models):
            raise InvalidRequestError(f"Traffic names model {columns.max()}, the plan has {len(models)}.")
        for column in columns:
            if not self._of_model[int(column)]:
                raise InfeasibleError(
                    f"Requests go to {models[column]}, which has no replica in the plan: plan again or reroute them."
                )

    def _open(self, arrival_s: FloatArray) -> Generator[simpy.Event, Any, None]:
        for request, time_s in enumerate(arrival_s):
            yield self._env.timeout(max(0.0, time_s - self._env.now))
            self._arrive(request)

    def _send_next(self) -> None:
        request = next(self._unsent, None)
        if request is not None:
            self._arrive(request)

    def _arrive(self, request: int) -> None:
        self._arrival_s[request] = self._env.now
        column = int(self._traffic.model[request])
        replica = max(self._of_model[column], key=lambda replica: replica.free)
        if replica.free:
            self._seat(request, replica)
        else:
            self._waiting[column].append(request)
            self._note()

    def _seat(self, request: int, replica: _Replica) -> None:
        self._start_s[request] = self._env.now
        replica.take(request)

    def _note(self) -> None:
        self._queue.append((self._env.now, sum(len(waiting) for waiting in self._waiting.values())))


class _Replica:
    """One engine. `_progress` counts the tokens that a sequence running since the start would have; a sequence ends
    when it passes the value noted at its beginning plus its length.
    """

    def __init__(self, env: simpy.Environment, profile: Profile, column: int, run: _Run) -> None:
        self.column, self.slots = column, profile.max_num_seqs
        self.busy_s = self.slot_s = 0.0
        self._env, self._run, self._profile = env, run, profile
        self._new: list[int] = []
        self._late: list[int] = []
        self._at_boundary = False
        self._running: list[tuple[float, int, int]] = []
        self._order = count()
        self._progress = 0.0
        self._steps = _step_curve(profile)
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


def _step_curve(profile: Profile) -> tuple[FloatArray, FloatArray]:
    """Sequences running and seconds a step, to interpolate; without a curve a step always takes what a full one does,
    which is right where reading weights dominates.
    """
    curve = profile.decode_curve or ((profile.max_num_seqs, profile.tokens_per_s),)
    sequences = np.array([sequences for sequences, _ in curve], dtype=np.float64)
    return sequences, sequences / np.array([speed for _, speed in curve], dtype=np.float64)
