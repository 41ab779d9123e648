"""A Router as an ingress's link sees it."""

import asyncio

from apportion.router.batch.messages import (
    BatchInfo,
    Decision,
    Done,
    Held,
    Refusal,
    Reply,
    Report,
    RouteItem,
    Verdict,
)
from apportion.router.errors import BudgetExceededError

BATCH = BatchInfo(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ())


def decide(item: RouteItem) -> Decision:
    return Decision(item.id, "small", 0.5, 1e-6, 0.0, "mip", "mip", BATCH, "replica", "http://engine")


class FakeRouter:
    """Answers waiting exchanges after `planning_s`, as the router does; records what it was told."""

    def __init__(self, planning_s: float = 0.0) -> None:
        self.planning_s = planning_s
        self.name = "router"
        self.held: list[Held] = []
        self.exchanges: list[tuple[list[str], bool]] = []
        self.done: list[Done] = []
        self.cancelled: list[str] = []
        self.undecided: dict[str, RouteItem] = {}
        self.refuse: set[str] = set()
        self.failures = 0
        self.settles = True
        self.lost_replies = 0

    async def exchange(self, report: Report, wait: bool) -> Reply:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("router restarts")
        self.exchanges.append(([item.id for item in report.items], wait))
        self.done += report.done
        self.cancelled += report.cancelled
        self.held += report.held
        self.undecided |= {item.id: item for item in report.items}
        for request_id in report.cancelled:
            self.undecided.pop(request_id, None)
        settled = (report.number,) if self.settles else ()
        unknown = tuple(key for key in report.waiting if key not in self.undecided)
        if not wait:
            return Reply(self.name, (), settled, unknown)
        await asyncio.sleep(self.planning_s)
        ready, self.undecided = self.undecided, {}
        verdicts: list[Verdict] = [
            Refusal(key, BudgetExceededError("too dear")) if key in self.refuse else decide(item)
            for key, item in ready.items()
        ]
        if self.lost_replies:
            self.lost_replies -= 1
            return Reply(self.name, (), settled)
        return Reply(self.name, tuple(verdicts), settled)

    def restart(self) -> None:
        """Another incarnation, which knows nothing."""
        self.name += "'"
        self.undecided = {}


def item(name: str) -> RouteItem:
    return RouteItem(id=name)
