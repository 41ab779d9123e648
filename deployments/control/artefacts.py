"""Which artefact predicts: the configuration's, or the one that takes its place while the service runs, and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from apportion.deployments.config.knowledge import check_same
from apportion.deployments.config.models import resolve_source
from apportion.deployments.config.service import ServiceConfig, live_predictor
from apportion.router.errors import ApportionError

if TYPE_CHECKING:
    from apportion.router.prediction.fleet_predictor import FleetPredictor

logger = logging.getLogger(__name__)


class Artefacts:
    """Loads artefacts; the old one predicts until the new one is there.

    Args:
        config: names the first one, which is loaded at once.

    Attributes:
        predictor: of the artefact of the moment.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._wanted = self.name = config.predictor.artefact
        self._taking: asyncio.Task[None] | None = None
        self.predictor = self._load(self.name)

    def want(self, user_config: dict[str, Any], taken: Callable[[FleetPredictor], None]) -> None:
        """Takes the artefact that a deployment's `user_config` names, or goes back to the configuration's.

        Returns at once: Serve sends nothing to a replica that is being reconfigured. What cannot take the present one's
        place does not, and the log says why.

        Args:
            taken: is told when another one predicts from now on.
        """
        try:
            self._wanted = live_predictor(user_config).artefact or self._config.predictor.artefact
        except ApportionError as error:  # Serve would stop a replica that raises here
            logger.error("predictions go on with %s: %s", self.name, error.message)
            return
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take(taken), context=Context())

    async def _take(self, taken: Callable[[FleetPredictor], None]) -> None:
        """Loads what is wanted, which may change meanwhile."""
        while (wanted := self._wanted) != self.name:
            try:
                predictor = await asyncio.to_thread(self._load, wanted)
                check_same(self.predictor.known.models, predictor.known.models, wanted)
            except Exception as error:
                told = error.message if isinstance(error, ApportionError) else type(error).__name__
                logger.error("predictions go on with %s, since %s cannot be taken: %s", self.name, wanted, told)
                if wanted == self._wanted:
                    return
            else:
                self.name, self.predictor = wanted, predictor
                taken(predictor)
                logger.warning("%s predicts from now on", wanted)

    def _load(self, artefact: str) -> FleetPredictor:
        # Here, not above: it imports torch, which the deployments that import this need not.
        from apportion.router.prediction.fleet_predictor import FleetPredictor

        config = self._config.predictor
        return FleetPredictor.load(
            resolve_source(artefact),
            {column.name: column.prior_success for column in self._config.columns},
            encoder=config.encoder_source,
            device="cuda" if config.num_gpus else "cpu",
        )
