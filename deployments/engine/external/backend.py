"""A model that somebody else runs, behind a replica's own port like any other."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apportion.deployments.config.external import ExternalConfig
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.external.account import Account, BusyError
from apportion.deployments.engine.external.asked import asked
from apportion.deployments.engine.external.credentials import Credentials
from apportion.deployments.engine.external.provider import PATHS, CutOffError, Provider
from apportion.deployments.engine.external.reply import Reply
from apportion.deployments.engine.meter import Meter, current_usage
from apportion.deployments.engine.server import METRICS
from apportion.deployments.wire.asgi import until_gone
from apportion.deployments.wire.headers import ignored_header
from apportion.router.errors import ApportionError, UnavailableError, UnknownModelError
from apportion.router.quota.quota import Quota

logger = logging.getLogger(__name__)

_KINDS = {f"/v1{path}": kind for kind, path in PATHS.items()}
_FAILED = 502


class ExternalEngine:
    """One account with a provider, and the port at which its model answers."""

    def __init__(self, model: ModelConfig) -> None:
        external = model.external
        if external is None:
            raise ValueError("an external model needs to be said where it is")
        quota = Quota(model.max_num_seqs, external.requests_per_minute, external.tokens_per_minute)
        self._account = Account(quota, time.monotonic, time.time)
        self._provider = Provider(external.base_url, Credentials(external), self._account)
        self.app = Meter(Port(external, self._provider), model.price)

    @classmethod
    async def start(cls, model: ModelConfig) -> ExternalEngine:
        """Raises: ConfigurationError: its key is not there."""
        return cls(model)

    @property
    def slots(self) -> int:
        """As many as the provider's limits are at the moment."""
        return self._account.slots()

    @property
    def trouble(self) -> str | None:
        """Why the provider takes nothing until somebody acts."""
        return self._account.trouble

    def check_health(self) -> None:
        """Nothing that a restart would mend can break."""

    async def probe(self) -> None:
        """Whether the provider is stuck, requests' own time-outs say."""
        self.app.sign()

    def close(self) -> None:
        """Ends the connections."""
        self._closing = asyncio.ensure_future(self._provider.close())


class Port:
    """The application: reads requests, and answers them as the provider does, as long as somebody waits for it."""

    def __init__(self, external: ExternalConfig, provider: Provider) -> None:
        self._external = external
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        kind = _KINDS.get(request.url.path)
        if request.url.path == METRICS:
            await Response("")(scope, receive, send)  # Prometheus asks every engine
            return
        if kind is None or request.method != "POST":
            error = UnknownModelError(f"an external model does not answer at {request.url.path}")
            await Reply(send, {}).error(error)
            return
        raw = await request.body()
        # With whoever asked leaves the connection to the provider.
        work = await until_gone(self._answer(kind, raw, send), receive)
        if not work.cancelled():
            work.result()

    async def _answer(self, kind: str, raw: bytes, send: Send) -> None:
        reply = Reply(send, {})
        used = current_usage()
        try:
            request = asked(kind, json.loads(raw), self._external, signals=used.signals_asked)
            reply.add(_text(ignored_header(request.ignored)))
            await self._provider.answer(kind, request, used, reply)
        except BusyError as busy:
            await reply.busy(busy.busy_s)
        except CutOffError:
            logger.warning("the provider broke off an answer")  # which does not end here either, so that it is seen
        except UnavailableError as error:
            await reply.error(error, _FAILED)
        except ApportionError as error:
            await reply.error(error)
        except Exception as error:
            # Its class only: what it says may quote a request.
            logger.error("an answer of the provider's cannot be read: %s", type(error).__name__)
            if not reply.begun:
                await reply.error(UnavailableError("the provider's answer cannot be read"), _FAILED)


def _text(headers: list[tuple[bytes, bytes]]) -> Mapping[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
