"""What the parts of the service tell each other: plain values, nothing of the HTTP request itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from router.budget import Account
from router.errors import ApportionError

ROUTER = "Router"  # the deployment that engines announce themselves to


@dataclass(frozen=True, slots=True)
class RoutingAsk:
    """What a request asks of its routing; None: the service's policy decides."""

    strategy: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    max_cost_usd: float | None = None
    min_success: float | None = None
    models: tuple[str, ...] | None = None
    wait_for_budget: bool = False


@dataclass(frozen=True, slots=True)
class RouteItem:
    """One request as the router sees it: content to predict from, limits, and no sampling parameters.

    `content` is a chat's messages, a prompt, several prompts, or a prompt's token ids; `unread_prompt` where the engine
    may add to it what the router has not counted. `account` says who pays.
    """

    id: str
    content: list[dict[str, Any]] | str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    sequences: int = 1
    max_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    ask: RoutingAsk = field(default_factory=RoutingAsk)
    account: Account = field(default_factory=Account)
    prompts: int = 1
    unread_prompt: bool = False

    def again(self, attempt: int) -> RouteItem:
        """The item of a further attempt, under a name of its own: the first one's slot may still be settling."""
        return self if attempt == 0 else replace(self, id=f"{self.id}-{attempt}")


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """The batch that a decision belongs to."""

    id: int
    size: int
    planned_cost_usd: float
    cap_usd: float
    budget_price: float
    objective: float
    bound: float
    binding: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was predicted for one model."""

    model: str
    success: float
    cost_usd: float
    output_tokens: float
    allowed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes and why; `url` is None for a plan that is not run."""

    id: str
    model: str
    success: float
    cost_usd: float
    slot_price: float
    rung: str
    strategy: str
    batch: BatchInfo
    replica: str | None = None
    url: str | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes nowhere."""

    id: str
    error: ApportionError


Verdict = Decision | Refusal


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a dispatched request, told by the ingress.

    `cost_usd` is None where the engine did not say; `worked` is False where no engine received the request;
    `lost_replica` where its engine could not be reached.
    """

    id: str
    cost_usd: float | None
    worked: bool = True
    lost_replica: bool = False


@dataclass(frozen=True, slots=True)
class EngineReplica:
    """An engine replica's announcement; repeated as its heartbeat."""

    id: str
    model: str
    url: str
    slots: int
    draining: bool = False
