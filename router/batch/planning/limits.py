"""What the requests of a batch take of limits on what is in flight: rows of its problem, with what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import Limit
from apportion.router.batch.concurrency import ConcurrencyLimit, Counted, LimitsLeft, Needs
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.planning.screening import most_tokens, prompt_tokens
from apportion.router.batch.policy import ServedModel
from apportion.router.errors import ApportionError, InfeasibleError, UnavailableError
from apportion.router.estimates import Estimates

MENDS = {
    Counted.slots: "ask for fewer answers (n)",
    Counted.tokens: "lower max_tokens",
}


@dataclass(frozen=True, eq=False)
class Uses:
    """What N requests would take of K limits on M models.

    Args:
        limits: the K.
        use: (K, N, M), 0 where a limit does not hold.
        most: (K,) that may be in flight.
        left: (K,) of that; what a plan gives away is taken off it.
        patient: (N,) requests that what is left may be kept for.
    """

    limits: tuple[ConcurrencyLimit, ...]
    use: FloatArray
    most: IntArray
    left: IntArray
    patient: BoolArray

    @classmethod
    def of(
        cls, items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel], left: LimitsLeft | None
    ) -> Uses | None:
        """Of a batch's requests; None: no limit holds for any of them."""
        if left is None:
            return None
        accounts = {item.account for item in items}
        holding = [{one for one in accounts if limit.holds_for(one)} for limit in left.limits]
        if not any(holding):
            return None
        for_ = np.array([[item.account in those for item in items] for those in holding])
        on = np.array([[limit.holds_on(model.name) for model in models] for limit in left.limits])
        use = (for_[:, :, None] & on[:, None, :]).astype(np.float64)
        slots = np.array([item.sequences for item in items], dtype=np.float64)[:, None]
        for k, limit in enumerate(left.limits):
            if limit.of is Counted.slots:
                use[k] *= slots
            elif limit.of is Counted.tokens:
                use[k] *= most_tokens(items, prompt_tokens(items, estimates, models), models)
        patient = np.zeros(len(items), dtype=bool) if left.patient is None else left.patient
        return cls(left.limits, use, left.most, left.left.copy(), patient)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the limits."""
        return tuple(limit.name for limit in self.limits)

    def never(self) -> BoolArray:
        """(N, M) pairs that some limit has no room for whatever is in flight."""
        over = (self.use > self.most[:, None, None]) & (self.most > 0)[:, None, None]
        return np.asarray(over.any(axis=0))

    def full(self) -> BoolArray:
        """(N, M) pairs that a limit has too little left for, and keeps nothing for."""
        over = self.use > self.left[:, None, None]
        kept = self.patient[:, None] & (self.use > 1) & (self.left > 0)[:, None, None]
        return np.asarray((over & ~kept).any(axis=0))

    def rows(self, rows: IntArray, allowed: BoolArray) -> tuple[Limit, ...]:
        """The limits as rows of these requests' problem; those that cannot bind are left out.

        Args:
            rows: indices of n of the requests.
            allowed: (n, M) pairs that may be chosen.
        """
        found = []
        for k, limit in enumerate(self.limits):
            use = self.use[k, rows]
            if np.where(allowed, use, 0.0).max(axis=1).sum() > self.left[k]:
                found.append(Limit(limit.name, use, float(self.left[k])))
        return tuple(found)

    def take(self, rows: IntArray, columns: IntArray) -> None:
        """A plan has given these requests these models."""
        self.left[:] -= self.use[:, rows, columns].sum(axis=1).astype(np.int64)

    def needs(self, row: int, possible: BoolArray) -> Needs:
        """What a request needs of each limit, at least; of more than one to within a power of two.

        Args:
            possible: (M,) models that may ever answer it.
        """
        held = np.where(possible & (self.use[:, row] > 0), self.use[:, row], np.inf).min(axis=1).tolist()
        return tuple(
            (limit, 1 << (int(least).bit_length() - 1))
            for limit, least in zip(self.limits, held, strict=True)
            if least < np.inf
        )

    def error(self, row: int, barred: BoolArray) -> ApportionError:
        """Why a request may go to no model, of those (M,) that limits never admit it to: the limit missed by least."""
        over = np.where((self.most > 0)[:, None], self.use[:, row] - self.most[:, None], -np.inf)
        column = int(np.where(barred, over.max(axis=0), np.inf).argmin())
        k = int(over[:, column].argmax())
        limit, most, takes = self.limits[k], int(self.most[k]), int(self.use[k, row, column])
        whole = f"{most} {limit.of}" if limit.share is None else f"{limit.share:.3g} of the slots, {most} now,"
        kind = InfeasibleError if limit.share is None else UnavailableError
        return kind(
            f"the limit {limit.name} allows {whole} in flight, and this request may take {takes}; {MENDS[limit.of]}"
        )
