"""Conversations: which model and replica answered a session last, and what it is worth to stay there.

An engine that has read a conversation keeps it in its prefix cache, and another model would go on in another voice.
Both are values in a batch's objective: the tokens that are likely to be cached make the model cheaper, and
`Policy.stay_value` counts as so much more success. Whoever is not told of a session, or forgets it, loses only these.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.batch.messages import RouteItem, Turn
from apportion.router.budget import Account
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice, cache_savings
from apportion.router.variants import engines_of

LOOP_VALUE = 1.0  # of staying within a tool loop: no other model is better by more
_Key = tuple[Account, str]


@dataclass(frozen=True, slots=True)
class LastTurn:
    """Who answered a session's last turn.

    Args:
        model: that answered.
        replica: that answered.
        prompt_tokens: of its prompt; 0: nobody has counted them.
        beginning: stands for all of its prompt that one which goes on from it begins with; None: nobody knows.
        at_s: when, by a monotonic clock.
    """

    model: str
    replica: str
    prompt_tokens: float
    beginning: int | None
    at_s: float

    def tokens_in(self, item: RouteItem) -> float:
        """Tokens of this request's prompt that its own is likely to begin with: all or none."""
        return self.prompt_tokens if self.beginning in item.beginnings else 0.0


class Conversations:
    """The last turns of the sessions of late, each account's its own.

    Args:
        most: sessions that are remembered; of more, those that were silent longest are forgotten.
        ttl_s: a session that is silent for longer is forgotten.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, most: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._ttl_s = ttl_s
        self._clock = clock
        self._last: OrderedDict[_Key, LastTurn] = OrderedDict()  # the most silent ones first
        self.turns: Counter[Turn] = Counter()

    def __len__(self) -> int:
        return len(self._last)

    def last(self, item: RouteItem) -> LastTurn | None:
        """The last turn of the request's session, if it has one that is known."""
        found = None if item.session is None else self._last.get((item.account, item.session))
        return None if found is None or self._clock() - found.at_s > self._ttl_s else found

    def remember(self, item: RouteItem, turn: Turn | None, model: str, replica: str, prompt_tokens: float) -> None:
        """The request goes to this replica; a request without a session leaves nothing."""
        if item.session is None:
            return
        if turn is not None:
            self.turns[turn] += 1
        now_s, key = self._clock(), (item.account, item.session)
        longest = item.beginnings[-1] if item.beginnings else None
        self._last[key] = LastTurn(model, replica, prompt_tokens, longest, now_s)
        self._last.move_to_end(key)
        while len(self._last) > self._most or now_s - next(iter(self._last.values())).at_s > self._ttl_s:
            self._last.popitem(last=False)

    def look(self, items: Sequence[RouteItem], names: Sequence[str]) -> Stays | None:
        """Where the requests' sessions were last; None if no request has a session.

        Args:
            names: of the models, in the order of every array.
        """
        if not any(item.session is not None for item in items):
            return None
        engines, engine_of = engines_of(names)
        places = {name: place for place, name in enumerate(engines)}
        turns = [self.last(item) for item in items]
        return Stays(
            engine=np.array([-1 if turn is None else places.get(turn.model, -1) for turn in turns], dtype=np.int64),
            engine_of=engine_of,
            cached_tokens=np.array(
                [0.0 if turn is None else turn.tokens_in(item) for item, turn in zip(items, turns, strict=True)]
            ),
            in_loop=np.array([item.in_tool_loop for item in items], dtype=bool),
            in_session=np.array([item.session is not None for item in items], dtype=bool),
        )


@dataclass(frozen=True, slots=True)
class Stays:
    """Where the sessions of N requests were last.

    Args:
        engine: (N,), the model that answered, in whichever variant; -1 for what has no session or a new one.
        engine_of: (M,), each column's model.
        cached_tokens: (N,), those of the prompt that are likely to be in its cache.
        in_loop: (N,), whether the request brings the results of the model's own calls.
        in_session: (N,), whether it has a session.
    """

    engine: IntArray
    engine_of: IntArray
    cached_tokens: FloatArray
    in_loop: BoolArray
    in_session: BoolArray

    @property
    def _same(self) -> BoolArray:
        """(N, M) whether the column's model answered the session last."""
        same: BoolArray = self.engine[:, None] == self.engine_of
        return same

    def cheaper(self, estimates: Estimates, prices: Sequence[ModelPrice]) -> Estimates:
        """The estimates with what is likely to be cached at its own price; where tokens are guessed, none is."""
        at = rows, columns = np.nonzero(self._same & estimates.predicted[:, None])
        counted, expected = estimates.input_tokens[at], estimates.expected_input[at]
        cached = np.minimum(self.cached_tokens[rows], counted) * expected / np.maximum(counted, 1.0)
        cost_usd = estimates.cost_usd.copy()
        cost_usd[at] = np.maximum(cost_usd[at] - cached * cache_savings(prices)[columns], 0.0)
        return replace(estimates, cost_usd=cost_usd)

    def value(self, stay_value: float) -> FloatArray:
        """(N, M) what staying counts for, in success."""
        return np.where(self._same, np.where(self.in_loop, LOOP_VALUE, stay_value)[:, None], 0.0)

    def valued(self, estimates: Estimates, rows: IntArray, stay_value: float) -> Estimates:
        """The estimates of these rows as a plan goes by them: with what staying counts for.

        Success ends at 1, above which no other model is better anyway; a model's variants keep their distances.
        """
        best = np.where(self._same[rows], estimates.success, 0.0).max(axis=1, keepdims=True)
        more = np.minimum(self.value(stay_value)[rows], 1.0 - best)
        success, samples = estimates.success + more, estimates.success_samples
        if samples is not None:
            samples = np.minimum(samples + more, 1.0)
        return replace(estimates, success=success, success_samples=samples)

    def elsewhere(self, may_stay: BoolArray, cost_usd: FloatArray, most_usd: float) -> BoolArray:
        """(N, M) True where a tool loop would leave its model though it may stay.

        Args:
            may_stay: (N, M), models that may answer the request.
            cost_usd: (N, M), expected.
            most_usd: a loop whose model costs more may go on elsewhere.
        """
        stays = (self._same & may_stay & (cost_usd <= most_usd)).any(axis=1)
        elsewhere: BoolArray = (self.in_loop & stays)[:, None] & ~self._same
        return elsewhere

    def turn(self, row: int, column: int) -> Turn | None:
        """What it is to a request's session to be answered by the model of this column."""
        if not self.in_session[row]:
            return None
        last = int(self.engine[row])
        return Turn.first if last < 0 else Turn.stays if last == self.engine_of[column] else Turn.moves
