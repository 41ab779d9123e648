"""The routes that tell which models there are, for the Ingress to inherit."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from apportion.deployments.config.models import AUTO_MODEL
from apportion.deployments.ingress.parts import Parts
from apportion.deployments.keys.caller import Caller
from apportion.router.errors import UnknownModelError

model_api = APIRouter()


class ModelRoutes:
    """Lists what the caller may use."""

    _parts: Parts

    @model_api.get("/v1/models")
    async def models(self, request: Request) -> dict[str, Any]:
        caller = self._parts.authenticator.admit(request.headers)
        usable = self._usable(caller)
        return {"object": "list", "data": await self._parts.state.described((AUTO_MODEL, *usable), usable)}

    @model_api.get("/v1/models/{name:path}")
    async def model(self, name: str, request: Request) -> dict[str, Any]:
        caller = self._parts.authenticator.admit(request.headers)
        usable = self._usable(caller)
        if name not in (AUTO_MODEL, *usable):
            path = request.url.path.removesuffix(f"/{name}")
            raise UnknownModelError(f"the model {name!r} does not exist; GET {path} lists those that do")
        return (await self._parts.state.described((name,), usable))[0]

    def _usable(self, caller: Caller) -> tuple[str, ...]:
        return tuple(name for name in self._parts.config.nameable if caller.may_use(name))
