"""What the parts of the service tell each other: plain values, nothing of the HTTP request itself."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apportion.router.batch.capabilities import NO_NEEDS, Capabilities, Lack
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.stages import FirstAnswer, Kept, Second
from apportion.router.budget import Account
from apportion.router.errors import ApportionError
from apportion.router.prices import ModelPrice
from apportion.router.signals import Signals
from apportion.router.unpriced import Unpriced
from apportion.router.variants import model_of

ROUTER = "Router"  # the deployment that engines announce themselves to


@dataclass(frozen=True, slots=True)
class RoutingAsk:
    """What a request asks of its routing; None: the service's policy decides.

    Args:
        strategy: that plans it, by its name.
        options: of the strategy.
        max_cost_usd: models that are expected to cost more may not answer.
        min_success: models that are less likely to answer well may not answer; a probability.
        max_seconds: from its arrival to its last token, which models that are free and can be paid are chosen by.
        models: those that the request itself names.
        permitted: those that its caller may use at all.
        unfit: variants that contradict what the request says itself, by name, and how.
        wait_for_budget: where money is short, wait until there is some.
    """

    strategy: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    max_cost_usd: float | None = None
    min_success: float | None = None
    max_seconds: float | None = None
    models: tuple[str, ...] | None = None
    permitted: tuple[str, ...] | None = None
    wait_for_budget: bool = False
    unfit: Mapping[str, Lack] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteItem:
    """One request as the router sees it: names, counts and limits; neither a word of it nor sampling parameters.

    Args:
        id: names it at the router and at the engine.
        model: that it names; None: any.
        sequences: answers that the engine writes for it.
        max_tokens: of an answer; None: as many as fit.
        min_tokens: that each answer has at least, as far as they fit.
        needs: what a model must be able to do for it.
        ask: what it asks of its routing.
        account: who pays.
        session: the conversation, among the account's own, that it is a turn of; None: it is none.
        beginnings: what stands for those of its prompt, the longest last, of a turn of a conversation.
        in_tool_loop: it brings the results of calls that a model has made, for that model to go on.
        prompts: in its content.
        unread_prompt: the engine may add to the prompt what the router has not counted.
        priority: the higher, the sooner and the weightier.
        timeout_s: what is left of its time.
        predict_s: that its forecast took.
        avoid_replicas: that have failed it.
        avoid_models: that have failed it, with all of their variants.
        resent: a router has been told of it before, and may have decided, counted and reserved it before it was lost.
        earlier: attempts before this one; it was admitted with the first.
        may_cascade: its answer may be held back and thrown away for a second model's.
        first: it is the second stage of a cascade; its slots are still the first's alone. None: it is none.
        row_second: the second model of the cascade that it is a stage of, as a row of a job, which decides itself
            whether that is asked; None: it is none.
    """

    id: str
    model: str | None = None
    sequences: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    needs: Capabilities = NO_NEEDS
    ask: RoutingAsk = field(default_factory=RoutingAsk)
    account: Account = field(default_factory=Account)
    session: str | None = None
    beginnings: tuple[int, ...] = ()
    in_tool_loop: bool = False
    prompts: int = 1
    unread_prompt: bool = False
    priority: int = 0
    timeout_s: float = math.inf
    predict_s: float = 0.0
    avoid_replicas: tuple[str, ...] = ()
    avoid_models: tuple[str, ...] = ()
    resent: bool = False
    earlier: int = 0
    may_cascade: bool = False
    first: FirstAnswer | None = None
    row_second: str | None = None

    @property
    def bulk(self) -> bool:
        """Whether it is a row of a job: it gets what interactive requests leave."""
        return self.account.job is not None

    def again(
        self, failed: Sequence[Decision], timeout_s: float, others: int = 0, avoid_models: Sequence[str] = ()
    ) -> RouteItem:
        """The item of an attempt, under a name of its own: the first one's slot may still be settling.

        After a failure it goes to another replica, after a second one to other models, where there are any.

        Args:
            failed: attempts that came to nothing.
            others: attempts before this one that were no failures.
            avoid_models: beside those that failed.
        """
        models = tuple(model_of(decision.model) for decision in failed) if len(failed) > 1 else ()
        earlier = len(failed) + others
        return replace(
            self,
            id=f"{self.id}-{earlier}" if earlier else self.id,
            timeout_s=timeout_s,
            avoid_replicas=tuple(decision.replica for decision in failed if decision.replica is not None),
            avoid_models=(*models, *avoid_models),
            earlier=earlier,
        )

    def second_stage(self, first: FirstAnswer, timeout_s: float, earlier: int) -> RouteItem:
        """The item of a cascade's second stage.

        Args:
            first: the answer that there is.
            earlier: attempts before this one.
        """
        return replace(self, id=first.second.id, timeout_s=timeout_s, earlier=earlier, first=first)


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """The batch that a decision belongs to; `limit_prices` are of limits on what is in flight that might have bound."""

    id: int
    size: int
    planned_cost_usd: float
    cap_usd: float
    budget_price: float
    objective: float
    bound: float
    binding: tuple[str, ...]
    limit_prices: Mapping[str, float] = field(default_factory=dict)


class Turn(enum.StrEnum):
    """What a decision is to the session of its request."""

    first = enum.auto()  # nothing is known of the session
    stays = enum.auto()  # its model answers again
    moves = enum.auto()  # another one does


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was predicted for one model.

    Args:
        model: its name.
        success: what the plan goes by; None where nobody knows.
        calibrated_success: the same before the incumbent's was lifted over claims that held-out outcomes did not prove.
        cost_usd: of the answer, expected.
        output_tokens: of the answer, expected.
        allowed: whether the model may answer.
        reason: why it may not; None: it may.
        stay_value: what the plan added to `success` since the request's session was there last.
        predicted_seconds: from dispatch to the last token; None where nobody knows.
    """

    model: str
    success: float | None
    calibrated_success: float | None
    cost_usd: float
    output_tokens: float
    allowed: bool
    reason: str | None = None
    stay_value: float = 0.0
    predicted_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PlanTiming:
    """How long a request was at the router, in seconds: in the queue, while predicted, while solved."""

    queue_s: float
    predict_s: float
    solve_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes and why.

    Args:
        id: the request's.
        model: that answers.
        success: expected of the model; None where nobody knows.
        cost_usd: of the answer, expected.
        slot_price: what one more slot of the model is worth, in the plan's objective.
        rung: what decided: the strategy, or one of those that stand in for it.
        strategy: that was asked for.
        batch: that the request was planned with.
        replica: that answers; None, as are `url`, `price` and `timing`, for a plan that is not run.
        url: of the replica.
        timing: of the plan.
        candidates: what was predicted for every model, where that was asked for.
        price: of the model, when it was planned.
        turn: what the decision is to the request's session; None: it has none.
        token: the replica's, which answers only who knows it.
        max_tokens: the longest answer that fits and that the variant allows, where the request allows a longer one;
            None: it does not.
        predicted_seconds: from dispatch to the last token; None where nobody knows.
        second: `model` is a cascade's first stage, and success and cost are of both; None: it answers alone.
        most_tokens: that all answers of the model can have together.
    """

    id: str
    model: str
    success: float | None
    cost_usd: float
    slot_price: float
    rung: str
    strategy: str
    batch: BatchInfo
    replica: str | None = None
    url: str | None = None
    timing: PlanTiming | None = None
    candidates: tuple[Candidate, ...] = ()
    price: ModelPrice | None = None
    turn: Turn | None = None
    token: str | None = field(default=None, repr=False)
    max_tokens: int | None = None
    predicted_seconds: float | None = None
    second: Second | None = None
    most_tokens: int = 0

    def seated(self, replica: EngineReplica, price: ModelPrice, timing: PlanTiming) -> Decision:
        """The decision to be run on this replica."""
        return replace(self, replica=replica.id, url=replica.url, token=replica.token, price=price, timing=timing)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes nowhere.

    Args:
        id: the request's.
        error: that tells its client.
        holds_s: whatever else its account sends within so long is refused likewise.
    """

    id: str
    error: ApportionError
    holds_s: float = 0.0


Verdict = Decision | Refusal
Told = Verdict | Kept


class Ending(enum.Enum):
    """How a dispatched request ended."""

    answered = enum.auto()  # by the engine, whether it took the request or refused it
    given_up = enum.auto()  # its client or its time was gone before the engine was done
    unsent = enum.auto()  # no engine has received it
    own_trouble = enum.auto()  # its ingress had no descriptor, port or memory for a connection
    busy = enum.auto()  # whoever answers behind the replica takes no more requests for now
    no_connection = enum.auto()  # the engine did not take the connection in time
    unreachable = enum.auto()  # nobody listens where the engine was
    connection_lost = enum.auto()  # the engine was gone before it was done
    engine_failed = enum.auto()  # the engine answered with an error of its own, broke off, or was late and silent
    late = enum.auto()  # the engine was late with this one, and answered others meanwhile

    @property
    def worked(self) -> bool:
        """Whether an engine may have worked on it, so that it costs money."""
        return self not in _NEVER_AT_WORK

    @property
    def failed(self) -> bool:
        """Whether its replica did badly, as far as the ingress can tell."""
        return self in _FAILED


CLIENT_GONE = 499  # nginx's number for a client that left before it was answered


# Tuples: of one, every member is found by what it is, while a set would hash it by its name.
_NEVER_AT_WORK = (Ending.unsent, Ending.own_trouble, Ending.busy, Ending.no_connection, Ending.unreachable)
_FAILED = (Ending.no_connection, Ending.unreachable, Ending.connection_lost, Ending.engine_failed)


@dataclass(frozen=True, slots=True)
class Course:
    """How an attempt went, as its ingress saw it; times in seconds.

    Args:
        earlier: attempts at the same request before this one.
        link_s: what the decision took beyond the router's own part of it.
        first_byte_s: from the request's arrival to the first byte of its answer; None: none came.
        total_s: from the request's arrival to the attempt's end.
        status: that the request ended with; None: it goes on, with another attempt or without.
        input_tokens: of its prompts, as the engine has counted them; None: it has not said.
        output_tokens: of all that was generated; None as above.
        text_hash: the same for what the same account asks again; None: nobody has read it to the end.
        estimated: nobody has counted the tokens.
        signals: how sure the model was of its answer; None: nobody asked, or its engine cannot say.
    """

    earlier: int
    link_s: float
    first_byte_s: float | None
    total_s: float
    status: int | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    text_hash: bytes | None = None
    estimated: bool = False
    signals: Signals | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a dispatched request, told by the ingress; `cost_usd` is None where the engine did not say.

    `course` is None where it was not sent, or its ingress cannot tell. Its replica is to get nothing for `busy_s`.
    `releases` is the second stage that a cascade does not come to, with what is set aside for it.
    """

    id: str
    cost_usd: float | None
    ending: Ending = Ending.answered
    course: Course | None = None
    busy_s: float = 0.0
    releases: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A request in flight, told anew to a router that has restarted and does not know of it.

    `second` is what money is set aside under for a cascade's second stage, `most_tokens` what its answers can have.
    """

    id: str
    model: str
    replica: str
    sequences: int
    cost_usd: float
    account: Account = field(default_factory=Account)
    second: str | None = None
    most_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingress tells the router: new requests, endings, cancels, and what it holds if the router is new.

    Args:
        ingress: who reports.
        number: the report's own, for `Reply.settled`.
        items: new requests.
        done: endings.
        cancelled: ids of requests that nobody waits for any more.
        held: what is in flight, where the router is new.
        waiting: ids of requests told of long ago that have no verdict yet.
        unserved: how many requests have ended here without the end of an attempt, by the code of the error, since the
            ingress began.
        forecast: of the items, in their order; None: there are none.
        predictor: whether the ingress asks the predictor.
    """

    ingress: str
    number: int = 0
    items: tuple[RouteItem, ...] = ()
    done: tuple[Done, ...] = ()
    cancelled: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    waiting: tuple[str, ...] = ()
    unserved: Mapping[str, int] = field(default_factory=dict)
    forecast: Unpriced | None = None
    predictor: BreakerState = BreakerState.closed


@dataclass(frozen=True, slots=True)
class Reply:
    """The router's answer: the verdicts that are ready, and which incarnation of the router gives them.

    Args:
        router: the incarnation.
        verdicts: those that are ready.
        settled: numbers of reports, this one's or earlier ones', whose endings and cancels are in the ledger.
        unknown: ids of requests that wait at the ingress, but not here.
        silent: replicas that send no heartbeats any more: what is in flight there is given up.
        samples: plans go by what each member of the predictor's ensemble says.
    """

    router: str
    verdicts: tuple[Told, ...]
    settled: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    samples: bool = False


@dataclass(frozen=True, slots=True)
class EngineReplica:
    """An engine replica's announcement; repeated as its heartbeat. It answers only who knows its `token`.

    `trouble` is why it can answer nothing, where that lies behind it and no restart would mend it. `running` are the
    requests that it answers, with their sequences; `peak` is the most sequences that it has answered at once.
    """

    id: str
    model: str
    url: str
    slots: int
    draining: bool = False
    token: str | None = field(default=None, repr=False)
    trouble: str | None = None
    running: Mapping[str, int] = field(default_factory=dict, hash=False)
    peak: int = 0
