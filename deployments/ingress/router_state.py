"""What an ingress tells of the service: the router's state, the models and their prices of the moment."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import asdict
from typing import Any

from apportion.deployments.config.models import AUTO_MODEL, ModelConfig
from apportion.deployments.ingress.model_cards import auto_card, card
from apportion.deployments.wire.calls import answer_of
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.guards.recent import Recent
from apportion.router.variants import model_of

STATE_AGE_S = 1.0  # numbers may be told again for so long
STATE_TIMEOUT_S = 2.0
PATIENCE_S = STATE_TIMEOUT_S + 0.5  # until the router's answer has failed to come
READY_PATIENCE_S = 0.5  # those who ask whether the service is ready mostly wait a second
LISTEN_S = 3.0  # between two looks at the router, for those who ask whether the service is ready
PRESENT_S = 60.0  # a router unheard of for longer is away; Serve restarts one within some ten seconds
SETTLING_S = 15.0  # a router that has just started waits for the engines' heartbeats, and so do requests


class RouterState:
    """Asks the router, and knows what to say when it does not answer.

    Args:
        ask: the router's `state`; takes the age in seconds up to which it may repeat what it found.
        clock: seconds of a monotonic clock.
        predictor: whether this ingress asks the predictor.
    """

    def __init__(
        self,
        ask: Callable[[float], Awaitable[dict[str, Any]]],
        models: tuple[ModelConfig, ...],
        clock: Callable[[], float] = time.monotonic,
        predictor: Callable[[], BreakerState] = lambda: BreakerState.closed,
    ) -> None:
        self._ask = ask
        self._models = {model.name: model for model in models}
        self._nameable = {one.name: one for model in models for one in (*model.columns, model)}
        self._predictor = predictor
        self._clock = clock
        self._started = int(time.time())
        self._recent: Recent[dict[str, Any]] = Recent("the router's state", self._told, clock)
        self._served: list[str] = []
        self._asleep: list[str] = []
        self._served_s = -math.inf
        self._listening: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """From now on hears of the router every few seconds, so that `ready` has to ask nobody while it is there."""
        self._listening = asyncio.create_task(self._listen(), context=Context())

    def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()

    async def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether every part works and every model that is to have replicas has one or sleeps; and the numbers of the
        moment.
        """
        numbers = await self._recent.within(STATE_AGE_S, PATIENCE_S)
        state = numbers if numbers is not None and self._recent.error is None else {}
        parts = {"router": "closed", **state["parts"]} if state else {"router": "open"}
        if self._predictor() is not BreakerState.closed:  # the router hears of it with the next report
            parts["predictor"] = self._predictor()
        able = _able(state.get("models", {}))
        served = all(name in able for name, model in self._models.items() if model.groups)
        healthy = served and set(parts.values()) == {"closed"} and not state.get("policy_error")
        return healthy, {"healthy": healthy, **state, "parts": parts}

    async def ready(self) -> list[str]:
        """The models that can answer, sleeping ones too, as far as last heard; asks only where that would be none, and
        not for long.
        """
        if not self._last_heard():
            await self._recent.within(0.0, READY_PATIENCE_S)
        return self._last_heard()

    @property
    def asleep(self) -> list[str]:
        """Those of the models that slept when the router was last heard."""
        return self._asleep

    def _last_heard(self) -> list[str]:
        """The models that can answer; none if no router has been heard of for long."""
        age_s = self._recent.age_s
        served = self._clock() - age_s - self._served_s <= SETTLING_S  # when the router was last heard
        return self._served if served and age_s <= PRESENT_S else []

    async def described(self, names: Sequence[str], usable: Sequence[str]) -> list[dict[str, Any]]:
        """Models as OpenAI lists them, with what they can do; one model's name with its price, and whether `auto` may
        choose it.

        Args:
            usable: models that the caller may use, which `auto` is for it.
        """
        state = await self._recent.within(STATE_AGE_S, PATIENCE_S) or {}
        return [self._describe(name, usable, state) for name in names]

    def _describe(self, name: str, usable: Sequence[str], state: dict[str, Any]) -> dict[str, Any]:
        common = {"id": name, "object": "model", "created": self._started, "owned_by": "apportion"}
        known = state.get("in_auto", {})
        if name == AUTO_MODEL:
            return common | auto_card([self._nameable[one] for one in usable if known.get(one) is not False])
        model = self._nameable[name]
        columns = model.column_names if name in self._models else (name,)
        price = state.get("prices", {}).get(columns[0]) or asdict(model.price)
        told = [known[one] for one in columns if one in known]
        in_auto = any(told) if told else None  # None: no router that has the model was heard of
        asleep = state.get("models", {}).get(model_of(name), {}).get("asleep")
        return common | {
            **card(model),
            **({"variants": list(columns)} if name in self._models and model.variants else {}),
            "external": model.external is not None,
            **price,
            **({} if in_auto is None else {"in_auto": in_auto}),
            **({} if asleep is None else {"asleep": asleep}),
        }

    async def _told(self) -> dict[str, Any]:
        state = await answer_of(self._ask(STATE_AGE_S), STATE_TIMEOUT_S)
        served = _able(state["models"])
        self._asleep = [name for name in served if not state["models"][name]["slots"]]
        if served:
            self._served, self._served_s = served, self._clock()
        return state

    async def _listen(self) -> None:
        while True:
            await self._recent.within(STATE_AGE_S, PATIENCE_S)
            await asyncio.sleep(LISTEN_S if self._served else STATE_AGE_S)


def _able(models: Mapping[str, Any]) -> list[str]:
    """Names of the models that have slots, or sleep and get some when they are asked for."""
    return [name for name, model in models.items() if model["slots"] > 0 or model.get("asleep")]
