"""The Predictor: counts prompts' tokens, encodes them, and says what is expected of them on every model."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve

from apportion.deployments.cluster.autoscaling import USED
from apportion.deployments.cluster.nodes import node_address
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.artefacts import Artefacts
from apportion.deployments.control.busy import Busy
from apportion.deployments.control.watch import Watch
from apportion.deployments.wire.channel import Address, Listener
from apportion.deployments.wire.listening import ANY_PORT
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.prompt import Prompt
from apportion.router.errors import UnavailableError
from apportion.router.unpriced import Unpriced

if TYPE_CHECKING:
    from apportion.router.prediction.fleet_predictor import FleetPredictor


@serve.deployment
class Predictor:
    """The library's predictor and the models' tokenizers, on a share of a GPU or on the CPU."""

    def __init__(self, config: ServiceConfig) -> None:
        log_to_serve()
        self._config = config.predictor
        self._listener = Listener(self.predict, config.predictor.ports or ANY_PORT, "predictor.ports")
        self._watch, self._busy = Watch("predictor"), Busy()
        # Here, not above: the other deployments import this module's name and need no torch.
        import torch

        from apportion.router.prediction.estimation import RequestEstimator
        from apportion.router.prediction.tokens import TokenCounter

        torch.set_num_threads(config.predictor.threads)
        self._artefacts = Artefacts(config)
        counter = TokenCounter.load(
            {column.name: column.tokenizer_source for column in config.columns},
            {column.name: column.max_model_len for column in config.columns},
        )
        self._token_chars = counter.token_chars()
        self._estimator = RequestEstimator(
            predictor=self._artefacts.predictor,
            counter=counter,
            context=np.array([column.max_model_len for column in config.columns], dtype=float),
            longest=np.array([column.max_tokens or np.inf for column in config.columns]),
        )
        self._models = config.names
        # Long texts and plans that are not run have a thread of their own: nobody else's call waits for theirs.
        self._ordinary, self._bulk = (
            ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(config.predictor.threads,))
            for _ in range(2)
        )
        self._work([Prompt("What is 1 plus 1?")])

    async def address(self) -> Address:
        """Where `predict` is called; calls wait there, in line for the two threads, and ingresses send few at once."""
        return await self._listener.start(self._config.host or node_address())

    def __del__(self) -> None:
        if hasattr(self, "_listener"):
            self._listener.close()

    async def predict(self, prompts: Sequence[Prompt], models: tuple[str, ...], bulk: bool = False) -> Unpriced:
        """What is expected of the prompts; one that cannot be read gets an error of its own and spoils nothing.

        Args:
            models: the columns that the answer is to have.
            bulk: it may take long, and is worked on beside what is not.

        Raises:
            UnavailableError: it is the predictor of other models, since a deploy is changing them.
        """
        self._check(models)
        worker = self._bulk if bulk else self._ordinary
        return await asyncio.get_running_loop().run_in_executor(worker, self._work, prompts)

    async def token_chars(self, models: tuple[str, ...]) -> tuple[int | None, ...]:
        """(M,) characters that a token of each model stands for at most, blanks aside; None: any number.

        Raises:
            UnavailableError: as `predict`.
        """
        self._check(models)
        return self._token_chars

    def _check(self, models: tuple[str, ...]) -> None:
        if models != self._models:
            raise UnavailableError("the ingress and its predictor have different models; the deploy is not done yet")

    def _work(self, prompts: Sequence[Prompt]) -> Unpriced:
        with self._watch.call(), self._busy.work():
            return self._estimator.forecast(prompts)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Another artefact as soon as it is loaded, or the configuration's again; nothing restarts."""

        def taken(predictor: FleetPredictor) -> None:
            self._estimator = dataclasses.replace(self._estimator, predictor=predictor)

        self._artefacts.want(user_config, taken)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaling sees of a replica: the share of the time that it works."""
        return {USED: self._busy.share()}

    def check_health(self) -> None:
        """Raises: UnavailableError: it hangs, so that Serve starts another in its place."""
        self._watch.check()
