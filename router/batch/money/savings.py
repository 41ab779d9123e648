"""What requests have left of `budget_usd_per_request`, for those on which a dollar does more.

A batch that has only its own requests' money spends it badly where it is small: alone, a request can have nothing that
costs more than the average, however much it would gain. So all requests of late are reckoned as one batch: what a
dollar has to bring is the price at which they would spend their money together (as `Resolving` has it for a window),
and what a batch leaves is kept for the next.
"""

from __future__ import annotations

from apportion.router.arrays import FloatArray
from apportion.router.batch.messages import RouteItem
from apportion.router.budget.demand import Demand, Seen
from apportion.router.budget.pacing import ROUNDING

MEMORY = 2048  # requests of late that stand for those to come
FRESH = 1 / 32


def is_pooled(item: RouteItem, guessed: bool) -> bool:
    """Whether its money is reckoned with others': it names no model, and is not `guessed`, so that costs are known."""
    return item.model is None and not guessed


class Savings:
    """Never spends what has not been saved: all batches together stay within their requests' money.

    Attributes:
        saved_usd: what is left.
    """

    def __init__(self) -> None:
        self._demand: Demand[Seen] = Demand(MEMORY, FRESH)
        self._usd_per_request: float | None = None
        self.saved_usd = 0.0

    def allowance_usd(self, value: FloatArray, cost_usd: FloatArray, usd_per_request: float, *, scarce: bool) -> float:
        """What a batch may spend in USD; changes nothing.

        Args:
            value: (n_requests, n_models) what the objective counts for each pair.
            cost_usd: (n_requests, n_models), `inf` where a model may not answer; one finite value a row at least.
            usd_per_request: what each request brings.
            scarce: slots may be short, so that dearer models than are wanted may have to do; then the batch has all of
                what it brings.
        """
        own_usd = len(value) * usd_per_request
        if usd_per_request != self._usd_per_request or not self._demand.n:
            return own_usd
        price = self._demand.price(usd_per_request + self.saved_usd / self._demand.n)
        if price == 0:  # there is enough for all that is wanted
            return own_usd + self.saved_usd
        batch = Seen.of(value, cost_usd)
        wanted_usd = batch.cheapest_usd + float(batch.steps.cost_usd[batch.steps.price >= price].sum())
        wanted_usd *= 1 + ROUNDING
        return min(own_usd + self.saved_usd, max(wanted_usd, own_usd) if scarce else wanted_usd)

    def take(
        self, value: FloatArray, cost_usd: FloatArray, spent_usd: float, usd_per_request: float, most: int
    ) -> None:
        """Requests go to their models; what they leave is saved, or what they cost above their own is taken.

        Args:
            value: as for `allowance_usd`, of these requests.
            cost_usd: as well.
            spent_usd: what they are expected to cost.
            usd_per_request: what each brings; with another one than before nothing is saved yet.
            most: requests whose money is kept at most.
        """
        if usd_per_request != self._usd_per_request:
            self._usd_per_request, self.saved_usd = usd_per_request, 0.0
        self._demand.add(Seen.of(value, cost_usd))
        left_usd = self.saved_usd + len(value) * usd_per_request - spent_usd
        self.saved_usd = min(max(left_usd, 0.0), most * usd_per_request)
