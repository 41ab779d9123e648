"""Requests on models, one after the other, within slots and further limits: those in front first."""

from __future__ import annotations

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.program import Program

SHIFTS = 16  # requests for which another one's move is looked for, since each looks at all that are seated


class LimitedSeats:
    """Seats requests where slots and limits have room; one that is seated moves over for another if that suffices.

    With limits it is hard to say whether all can be seated (multidimensional knapsack), so a request may be left out
    for which there would have been a way with several moves. Whoever is first is seated if it can be at all.
    """

    def __init__(self, program: Program) -> None:
        self._load = np.where(np.isfinite(program.value), program.loads, np.inf)  # (n_requests, n_models)
        self._use = np.stack([limit.use for limit in program.limits])  # (n_limits, n_requests, n_models)
        self._engine_of = program.engine_of
        self._free = program.slots.copy()
        self._left = np.array([limit.at_most for limit in program.limits])
        self._on: IntArray = np.full(program.n_requests, -1)
        self._left_out: set[bytes] = set()  # what requests asked for that nobody could be seated with
        self._shifts = SHIFTS

    def take(self, row: int) -> bool:
        """Seats the request if there is a way to."""
        fits = self._fits(self._load[row], self._use[:, row], self._free, self._left)
        if fits.any():
            self._seat(row, self._roomiest(row, fits))
            return True
        asked = self._load[row].tobytes() + self._use[:, row].tobytes()
        if asked in self._left_out:
            return False
        if self._shifts and np.isfinite(self._load[row]).any():
            self._shifts -= 1
            if self._shift(row):
                return True
        self._left_out.add(asked)
        self._keep(row)
        return False

    def _fits(self, load: FloatArray, use: FloatArray, free: FloatArray, left: FloatArray) -> BoolArray:
        """(..., n_models) where there is room; load: (..., n_models), use: (n_limits, ..., n_models)."""
        within = (use <= left[..., None]).all(axis=0)
        return np.asarray((load <= free[..., self._engine_of]) & within)

    def _roomiest(self, row: int, fits: BoolArray) -> int:
        """The model that takes the least of what is left of any limit; of these the one with most free slots."""
        taken = (self._use[:, row] / np.maximum(self._left, 1e-300)[:, None]).max(axis=0)
        taken = np.where(fits, taken, np.inf)
        return int(np.where(taken <= taken.min(), self._free[self._engine_of], -np.inf).argmax())

    def _seat(self, row: int, model: int) -> None:
        self._on[row] = model
        self._free[self._engine_of[model]] -= self._load[row, model]
        self._left -= self._use[:, row, model]

    def _shift(self, row: int) -> bool:
        """Seats the request in the place of one that can go to another model."""
        sitters = np.flatnonzero(self._on >= 0)
        home = self._on[sitters]
        load, use = self._load[sitters, home], self._use[:, sitters, home]
        free = np.tile(self._free, (len(sitters), 1))
        free[np.arange(len(sitters)), self._engine_of[home]] += load
        left = self._left[:, None] + use
        for model in np.flatnonzero(np.isfinite(self._load[row])).tolist():
            engine = self._engine_of[model]
            rest = left - self._use[:, row, model][:, None]
            gives = np.flatnonzero((free[:, engine] >= self._load[row, model]) & (rest >= 0).all(axis=0))
            after = free[gives]
            after[:, engine] -= self._load[row, model]
            goes = self._fits(self._load[sitters[gives]], self._use[:, sitters[gives]], after, rest[:, gives])
            if goes.any():
                which, target = divmod(int(goes.argmax()), goes.shape[1])
                self._move(int(sitters[gives[which]]), target)
                self._seat(row, model)
                return True
        return False

    def _move(self, row: int, model: int) -> None:
        home = self._on[row]
        self._free[self._engine_of[home]] += self._load[row, home]
        self._left += self._use[:, row, home]
        self._seat(row, model)

    def _keep(self, row: int) -> None:
        """A request that takes several of something and finds too few keeps them, so that small ones cannot hold it up
        for ever; where it lacks a single slot or unit too it has to wait for that first.
        """
        load, use = self._load[row], self._use[:, row]
        asked = np.vstack([load, use])[:, np.isfinite(load)]
        there = np.vstack([self._free[self._engine_of], np.tile(self._left[:, None], len(load))])[:, np.isfinite(load)]
        if not asked.size:
            return
        nearest = int(((asked - there) / np.maximum(asked, 1.0)).max(axis=0).argmin())
        short = asked[:, nearest] > there[:, nearest]
        if (asked[short, nearest] <= 1).any():
            return
        model = np.flatnonzero(np.isfinite(load))[nearest]
        if short[0]:
            self._free[self._engine_of[model]] = 0.0
        self._left[short[1:]] = 0.0
