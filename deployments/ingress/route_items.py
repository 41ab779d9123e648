"""Reads the body of `/v1/route`: chats and completions that are to be planned as one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.deployments.ingress.bounds import decode
from apportion.deployments.ingress.known_fields import Kind
from apportion.deployments.ingress.openai import ParsedRequest, parse_object
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.keys.caller import Caller
from apportion.router.errors import ApportionError, InvalidRequestError


def route_items(
    raw: bytes, headers: Mapping[str, str], rules: Rules, caller: Caller, max_items: int
) -> list[ParsedRequest]:
    """The requests of one call.

    Raises:
        InvalidRequestError: there are none or too many, or one of them is wrong; names it.
    """
    body = decode(raw)
    requests = body.get("requests") if isinstance(body, dict) else None
    if not isinstance(requests, list) or not requests:
        raise InvalidRequestError(
            'requests: give a list of chat or completion bodies: {"requests": [{"messages": [...]}]}', param="requests"
        )
    if len(requests) > max_items:
        raise InvalidRequestError(
            f"requests: {len(requests)} in one call; at most {max_items} are planned together, send the "
            "rest in another call",
            param="requests",
        )
    return [_item(i, one, headers, rules, caller) for i, one in enumerate(requests)]


def _item(index: int, body: Any, headers: Mapping[str, str], rules: Rules, caller: Caller) -> ParsedRequest:
    kind: Kind = "completion" if isinstance(body, dict) and "prompt" in body else "chat"
    try:
        return parse_object(kind, body, headers, rules, caller)
    except ApportionError as error:
        param = f"requests.{index}" + (f".{error.param}" if error.param else "")
        raise type(error)(f"requests.{index}: {error.message}", param=param) from None
