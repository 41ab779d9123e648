"""What this process has planned and spent: expected costs, from which a batch's allowance is reckoned.

The ledger holds worst cases, which is what a limit needs; pacing on those would leave most of the money unspent.
"""

from __future__ import annotations


class Tally:
    """Expected cost in USD of requests in flight, and what those that have ended cost."""

    def __init__(self) -> None:
        self._planned_usd: dict[str, float] = {}
        self.spent_usd = 0.0

    @property
    def planned_usd(self) -> float:
        return sum(self._planned_usd.values())

    def plan(self, request_id: str, cost_usd: float) -> None:
        self._planned_usd[request_id] = cost_usd

    def end(self, request_id: str, cost_usd: float | None) -> float:
        """Ends a request; None: cost unknown, so what was planned counts. One that has ended is left alone.

        Returns:
            What it counts for in USD.
        """
        planned_usd = self._planned_usd.pop(request_id, None)
        if planned_usd is None:
            return 0.0
        counted_usd = planned_usd if cost_usd is None else cost_usd
        self.spent_usd += counted_usd
        return counted_usd

    def release(self, request_id: str) -> None:
        """Ends a request that no engine worked on."""
        self._planned_usd.pop(request_id, None)
