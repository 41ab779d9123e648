"""How a variant's own fields and a request's go together: the request's stand, and tell which variants are for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.deployments.ingress.known_fields import FIELDS, Kind
from apportion.router.batch.capabilities import Lack
from apportion.router.prediction.conversation import template_variables

# Endpoints whose answers variants decide; at the others they change nothing but what the template makes of a prompt.
_ANSWERING: frozenset[Kind] = frozenset({"chat", "completion", "response", "message"})


def unfit(kind: Kind, asked: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Lack]:
    """The variants that are not for a request, by name, and why.

    A variant is for a request that gives its fields no other values, at an endpoint that has all of its fields.

    Args:
        asked: the request's fields, as a chat's.
        variants: their fields, by name.
    """
    found = {name: _conflict(kind, asked, fields) for name, fields in variants.items()}
    return {name: why for name, why in found.items() if why is not None}


def merged(kind: Kind, body: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body with what it lacks of a variant's fields, as far as the endpoint knows them."""
    return _filled(body, {name: value for name, value in fields.items() if name in FIELDS[kind]})


def _conflict(kind: Kind, asked: Mapping[str, Any], fields: Mapping[str, Any]) -> Lack | None:
    if kind not in _ANSWERING:
        return None
    for name, value in fields.items():
        if name not in FIELDS[kind]:
            return Lack("model", f"sets {name}, which requests at this endpoint do not have")
        if name in asked and (differs := _difference(name, asked[name], value)):
            return _contradicted(differs)
    # An effort says whether a model thinks, as does the template's own variable.
    own, other = template_variables(asked), template_variables(fields)
    differing = next((name for name in own.keys() & other.keys() if own[name] != other[name]), None)
    return None if differing is None else _contradicted(f"chat_template_kwargs.{differing}")


def _contradicted(field: str) -> Lack:
    return Lack(field, f"sets {field} otherwise than the request")


def _difference(place: str, asked: Any, value: Any) -> str | None:
    """Where two values contradict each other; objects that say different things beside each other do not."""
    if not (isinstance(asked, Mapping) and isinstance(value, Mapping)):
        return None if asked == value else place
    both = (_difference(f"{place}.{name}", asked[name], value[name]) for name in value if name in asked)
    return next((found for found in both if found is not None), None)


def _filled(body: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**fields, **body}
    for name, value in fields.items():
        if isinstance(value, Mapping) and isinstance(own := body.get(name), Mapping):
            filled[name] = _filled(own, value)
    return filled
