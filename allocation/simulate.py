"""Discrete-event check of a plan: requests wait for slots, and engines serve them as fast as their profiles say.

Traffic whose models are known waits for slots of its model, first come, first served. Traffic that is `Routed` waits in
one line, as in the service: what has come within a batch window is assigned together, by the slots that are free then.
What happens outside of engines (HTTP, planning) is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from apportion.allocation.models import Quota
from apportion.allocation.plan import Plan
from apportion.allocation.replica import Profile
from apportion.allocation.simulated_engine import SimulatedEngine
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
            raise InvalidRequestError("arrival_s, concurrency: traffic has one or the other; give one of them")
        if len(self.model) == 0:
            raise InvalidRequestError("traffic without requests cannot be simulated; give at least one")
        if (self.output_tokens < 1).any():
            raise InvalidRequestError("output_tokens: some are below 1; an answer has at least one token")


# What `Routed.choose` says of requests that are not given to a model.
WAITS, REFUSED = -1, -2
# How long the service collects a batch while it has nothing else to do; its planning takes about as long.
WINDOW_S = 0.02


@dataclass(frozen=True, eq=False)
class Routed:
    """n requests that are assigned when their turn comes.

    input_tokens, output_tokens: (n, n_models); arrival_s, answers: (n,). choose: from numbers of requests, free slots
    and slots of every model to the model of each request, WAITS or REFUSED. patience_s: a request that has waited so
    long is refused.
    """

    input_tokens: FloatArray
    output_tokens: FloatArray
    arrival_s: FloatArray
    answers: IntArray
    choose: Callable[[IntArray, IntArray, IntArray], IntArray]
    patience_s: float = float("inf")

    def __post_init__(self) -> None:
        if len(self.arrival_s) == 0:
            raise InvalidRequestError("traffic without requests cannot be simulated; give at least one")


@dataclass(frozen=True, eq=False)
class Simulation:
    """What became of each sequence, (n,) seconds, and of each replica, (n_replicas,).

    model: that answered, below 0 where the request was refused, whose times are NaN. waited_s: for a slot;
    first_token_s, latency_s: since arrival. window_s: in which requests came; None: as long as it
    all took. busy: share of the time that the replica decoded
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
    window_s: float | None = None

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last answer."""
        ends = self.arrival_s + self.latency_s
        return float(np.nanmax(ends, initial=self.arrival_s.max()) - self.arrival_s.min())

    @property
    def refused(self) -> float:
        """Share of the sequences that found no slot in time, or no money."""
        return float((self.model < 0).mean())

    def summary(self, models: Sequence[str], deadline_s: float) -> dict[str, Any]:
        """Percentiles, throughput, goodput (answers within the deadline), queue and utilisation, plain numbers."""
        everything = self._row(np.ones(len(self.model), dtype=bool), deadline_s)
        waiting, held_s = self.queue[:, 1], np.diff(self.queue[:, 0], append=self.queue[-1, 0])
        return {
            **everything,
            "refused": self.refused,
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
        answered = rows & np.isfinite(self.latency_s)
        percentiles = {
            f"{name}_p{level}": float(np.percentile(values[answered], level)) if answered.any() else 0.0
            for name, values in times.items()
            for level in (50, 95, 99)
        }
        counted = answered | (rows & (self.model < 0))
        good = float((self.latency_s[answered] <= deadline_s).sum() / max(counted.sum(), 1))
        # What is answered after the last arrival was not the throughput of the load.
        span_s = self.duration_s if self.window_s is None else self.window_s
        ended = answered & (self.arrival_s + self.latency_s - self.arrival_s.min() <= span_s)
        per_s = float(ended.sum()) / span_s
        return {
            "requests": int(rows.sum()),
            "requests_per_s": per_s,
            "tokens_per_s": float(self.output_tokens[ended].sum()) / span_s,
            "goodput_per_s": good * per_s,
            "within_deadline": good,
            **percentiles,
        }


def poisson_arrivals(n_requests: int, rate_per_s: float, seed: int) -> FloatArray:
    """Arrival times in s of so many requests that come independently at this rate."""
    return np.random.default_rng(seed).exponential(1 / rate_per_s, n_requests).cumsum()


def simulate(plan: Plan, traffic: Traffic | Routed) -> Simulation:
    """Replays the traffic against the plan's replicas.

    Raises:
        InfeasibleError: the plan has no replicas, or none of a request's model.
        InvalidRequestError: a model's index is not of the plan.
    """
    profiles = [(plan.profile(placed.replica), placed.replica.model) for placed in plan.placements]
    names = [model.name for model in plan.models]
    outside = {j: _Outside(model.quota) for j, model in enumerate(plan.models) if model.quota is not None}
    if isinstance(traffic, Traffic):
        return _Named(profiles, names, traffic).simulation()
    if not profiles and not outside:
        raise InfeasibleError("plan: has no replicas, so nothing can be replayed against it; plan again")
    return _Together(profiles, names, traffic, outside).simulation()


class _Run:
    """One simulation: the replicas, the clock, and what became of each sequence."""

    def __init__(self, profiles: Sequence[tuple[Profile, str]], models: Sequence[str], arrived: int) -> None:
        """arrived: sequences in all."""
        self.env = simpy.Environment()
        self.arrival_s, self.start_s, self.first_s, self.end_s = (np.full(arrived, np.nan) for _ in range(4))
        self.waiting: dict[int, deque[int]] = {column: deque() for column in range(len(models))}
        self.queue: list[tuple[float, int]] = [(0.0, 0)]
        self.engines: list[SimulatedEngine] = []
        self.of_model: dict[int, list[SimulatedEngine]] = {column: [] for column in range(len(models))}
        for profile, name in profiles:
            column = models.index(name)
            engine = SimulatedEngine(self.env, profile, column, self)
            self.engines.append(engine)
            self.of_model[column].append(engine)

    def tokens(self, request: int) -> tuple[float, float]:
        """Tokens in and out of a sequence."""
        raise NotImplementedError

    def first_token(self, request: int) -> None:
        self.first_s[request] = self.env.now

    def done(self, request: int, engine: SimulatedEngine) -> None:
        """A sequence is answered: its slot takes the next that waits for its model."""
        self.end_s[request] = self.env.now
        waiting = self.waiting[engine.column]
        if waiting:
            self.seat(waiting.popleft(), engine)
            self.note()

    def arrive(self, request: int, column: int) -> None:
        """A sequence of this model: to the engine with the most free slots, or into the model's line."""
        engine = max(self.of_model[column], key=lambda engine: engine.free)
        if engine.free:
            self.seat(request, engine)
        else:
            self.waiting[column].append(request)
            self.note()

    def seat(self, request: int, engine: SimulatedEngine) -> None:
        self.start_s[request] = self.env.now
        engine.take(request)

    def in_line(self) -> int:
        """How many wait."""
        return sum(len(waiting) for waiting in self.waiting.values())

    def note(self) -> None:
        self.queue.append((self.env.now, self.in_line()))

    def result(self, model: IntArray, output_tokens: FloatArray, window_s: float | None) -> Simulation:
        total_s = max(float(np.nanmax(self.end_s, initial=0.0)), self.queue[-1][0], 1e-12)
        return Simulation(
            arrival_s=self.arrival_s,
            waited_s=self.start_s - self.arrival_s,
            first_token_s=self.first_s - self.arrival_s,
            latency_s=self.end_s - self.arrival_s,
            output_tokens=output_tokens,
            model=model,
            busy=np.array([engine.busy_s / total_s for engine in self.engines]),
            slots_used=np.array([engine.slot_s / engine.slots / total_s for engine in self.engines]),
            queue=np.array([*self.queue, (total_s, self.queue[-1][1])]),
            window_s=window_s or None,
        )


class _Named(_Run):
    """Traffic whose models are known."""

    def __init__(self, profiles: Sequence[tuple[Profile, str]], models: Sequence[str], traffic: Traffic) -> None:
        super().__init__(profiles, models, len(traffic.model))
        self._traffic = traffic
        self._unsent = iter(range(len(traffic.model)))
        columns = np.unique(traffic.model)
        if columns.min() < 0 or columns.max() >= len(models):
            raise InvalidRequestError(f"traffic names model {columns.max()}, the plan has {len(models)}")
        for column in columns.tolist():
            if not self.of_model[column]:
                raise InfeasibleError(
                    f"requests go to {models[column]}, which has no replica in the plan; plan again or reroute them"
                )

    def simulation(self) -> Simulation:
        arrivals = self._traffic.arrival_s
        if arrivals is not None:
            self.env.process(self._open(arrivals))
        else:
            for _ in range(self._traffic.concurrency or 1):
                self._send_next()
        self.env.run()
        window_s = None if arrivals is None else float(arrivals[-1] - arrivals[0])
        return self.result(self._traffic.model, self._traffic.output_tokens, window_s)

    def tokens(self, request: int) -> tuple[float, float]:
        return float(self._traffic.input_tokens[request]), float(self._traffic.output_tokens[request])

    def done(self, request: int, engine: SimulatedEngine) -> None:
        super().done(request, engine)
        if self._traffic.concurrency is not None:
            self._send_next()

    def _open(self, arrival_s: FloatArray) -> Generator[simpy.Event, Any, None]:
        for request, time_s in enumerate(arrival_s):
            yield self.env.timeout(max(0.0, time_s - self.env.now))
            self._send(request)

    def _send_next(self) -> None:
        request = next(self._unsent, None)
        if request is not None:
            self._send(request)

    def _send(self, request: int) -> None:
        self.arrival_s[request] = self.env.now
        self.arrive(request, int(self._traffic.model[request]))


class _Outside:
    """A model that others run: what its quota of requests and tokens still allows, a minute's worth at most."""

    def __init__(self, quota: Quota) -> None:
        self.slots = quota.max_at_once
        given = (quota.requests_per_minute, quota.tokens_per_minute)
        self._per_minute = np.array([np.inf if limit is None else limit for limit in given])
        self._left, self._at_s = self._per_minute.copy(), 0.0

    def free(self, now_s: float) -> int:
        """Requests that may go there now."""
        since_s, self._at_s = now_s - self._at_s, now_s
        self._left = np.minimum(self._left + self._per_minute * since_s / 60, self._per_minute)
        requests, tokens = self._left.tolist()
        return int(min(requests, self.slots)) if tokens > 0 else 0

    def take(self, tokens: float) -> None:
        self._left -= (1.0, tokens)


class _Together(_Run):
    """Traffic that waits in one line and is assigned batch by batch, by the slots that are free then."""

    def __init__(
        self,
        profiles: Sequence[tuple[Profile, str]],
        models: Sequence[str],
        traffic: Routed,
        outside: Mapping[int, _Outside],
    ) -> None:
        """outside: models from outside; how long these take is not known, so their answers have no times."""
        super().__init__(profiles, models, int(traffic.answers.sum()))
        self._traffic, self._outside = traffic, outside
        self._first = np.concatenate([[0], np.cumsum(traffic.answers)])
        self._request = np.repeat(np.arange(len(traffic.answers)), traffic.answers)
        self._model = np.full(len(self._request), REFUSED)
        self._line: deque[int] = deque()
        self._planning = False
        of_engines = [sum(engine.slots for engine in self.of_model[j]) for j in range(len(models))]
        self._slots = np.array(
            [outside[j].slots if j in outside else slots for j, slots in enumerate(of_engines)], np.int64
        )

    def simulation(self) -> Simulation:
        arrivals = self._traffic.arrival_s
        self.arrival_s[:] = arrivals[self._request]
        self.env.process(self._open(arrivals))
        self.env.run()
        tokens = self._traffic.output_tokens[self._request, np.maximum(self._model, 0)]
        return self.result(self._model, tokens, float(arrivals[-1] - arrivals[0]))

    def tokens(self, request: int) -> tuple[float, float]:
        at = self._request[request], self._model[request]
        return float(self._traffic.input_tokens[at]), float(self._traffic.output_tokens[at])

    def done(self, request: int, engine: SimulatedEngine) -> None:
        super().done(request, engine)
        self._plan_soon()

    def in_line(self) -> int:
        return super().in_line() + len(self._line)

    def _open(self, arrival_s: FloatArray) -> Generator[simpy.Event, Any, None]:
        for request, time_s in enumerate(arrival_s):
            yield self.env.timeout(max(0.0, time_s - self.env.now))
            self._line.append(request)
            self.note()
            self._plan_soon()

    def _plan_soon(self) -> None:
        if self._line and not self._planning:
            self._planning = True
            self.env.process(self._plan())

    def _plan(self) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(WINDOW_S)
        self._planning = False
        while self._line and self.env.now - self._traffic.arrival_s[self._line[0]] > self._traffic.patience_s:
            self._line.popleft()
        free = np.array([self._free(j) for j in range(len(self._slots))], np.int64)
        batch = [self._line.popleft() for _ in range(min(len(self._line), 2 * int(free.sum())))]
        if batch:
            chosen = self._traffic.choose(np.array(batch), free, self._slots)
            for request, column in zip(batch, chosen.tolist(), strict=True):
                if column >= 0:
                    self._start(request, column)
            self._line.extendleft(reversed([r for r, column in zip(batch, chosen, strict=True) if column == WAITS]))
        self.note()

    def _free(self, column: int) -> int:
        if column in self._outside:
            return self._outside[column].free(self.env.now)
        return max(0, sum(engine.free for engine in self.of_model[column]) - len(self.waiting[column]))

    def _start(self, request: int, column: int) -> None:
        for sequence in range(self._first[request], self._first[request + 1]):
            self._model[sequence] = column
            if column in self._outside:
                self.start_s[sequence] = self.env.now
                self._outside[column].take(sum(self.tokens(sequence)))
            else:
                self.arrive(sequence, column)
