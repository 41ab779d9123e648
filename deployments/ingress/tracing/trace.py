"""What is told of a request while it is served, and to whom nobody listens."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from apportion.deployments.ingress.attempt import Attempt
from apportion.router.batch.messages import Decision, RouteItem
from apportion.router.errors import ApportionError


@dataclass(slots=True)
class Trace:
    """A request that is not traced.

    Args:
        carried: headers that tell engines so.
    """

    carried: Mapping[str, str] = field(default_factory=dict)

    async def planned(self, item: RouteItem, plan: Awaitable[Decision]) -> Decision:
        """The decision that is awaited; may be awaited once an attempt."""
        return await plan

    def attempted(self, attempt: Attempt, *, stream: bool) -> AbstractContextManager[None]:
        """Lasts as long as the attempt, which gets the headers that its engine is to be sent."""
        attempt.carried = self.carried
        return nullcontext()

    def failed(self, error: ApportionError) -> None:
        """Why the client gets no answer, or no whole one."""

    def ended(self, status: int | None, *, whole: bool) -> None:
        """It is over.

        Args:
            status: that the client was sent; None: it left before.
            whole: whether it was sent all of the answer.
        """


NO_TRACE = Trace()
