"""Which model makes a request's embeddings."""

from __future__ import annotations

from apportion.deployments.keys.caller import Caller
from apportion.router.batch.messages import RoutingAsk
from apportion.router.errors import InvalidRequestError, UnknownModelError


def embedder(
    named: str | None, ask: RoutingAsk, models: tuple[str, ...], embedders: tuple[str, ...], caller: Caller
) -> str:
    """The model that is named, or the only one that may: vectors of different models do not compare.

    Args:
        models: that are served.
        embedders: of these, those that make embeddings.

    Raises:
        UnknownModelError: there are none; says what there is.
        InvalidRequestError: several may, or none that the request allows.
    """
    if not embedders:
        names = ", ".join(name for name in models if caller.may_use(name))
        raise UnknownModelError(
            f"no model here makes embeddings; {names} answer at /v1/chat/completions, /v1/completions, /v1/responses "
            "and /v1/messages",
            param="model",
        )
    if named is not None:
        return named
    usable = [name for name in embedders if caller.may_use(name)]
    wanted = [name for name in usable if ask.models is None or name in ask.models]
    if len(wanted) != 1:
        raise InvalidRequestError(
            "model: name the one that makes the embeddings, since those of different models do not compare; you may "
            f"use {', '.join(usable) or 'none'}",
            param="model",
        )
    return wanted[0]
