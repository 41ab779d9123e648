"""Bounds of a request's size, beyond those of the body: checked before anything is done with it.

Prompt and answer are bounded by the models' context lengths, which the planner checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from apportion.deployments.config.bounds import InputBounds
from apportion.deployments.ingress.known_fields import FIELDS, Kind
from apportion.router.errors import InvalidRequestError

MAX_DEPTH = 64  # of nested lists and objects; far below what recursion stands
# Fields whose objects are the user's own; null means something in them.
_FREE = frozenset(
    {"arguments", "chat_template_kwargs", "input", "input_schema", "json", "metadata", "parameters", "schema"}
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(raw: bytes, *, nulls: bool = False) -> Any:
    """A body's JSON.

    Args:
        nulls: keep fields that are null; else that is as good as absent.

    Raises:
        InvalidRequestError: it is none, nests too deeply, or holds text that is no Unicode.
    """
    try:
        # Strictly: Python's own decoding of bytes lets halves of surrogate pairs pass, and other encodings.
        body = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidRequestError("the body is not UTF-8; encode it so") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not valid JSON: {error}") from None
    _check_depth(body)
    if _SURROGATE.search(raw):
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(
                "the body holds half of a surrogate pair, which is no text; send UTF-8, or escape both halves"
            ) from None
    return body if nulls or b"null" not in raw else _without_nulls(body)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(one) if isinstance(one, dict | list) else one for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: one if name in _FREE and isinstance(one, dict) else _without_nulls(one)
        for name, one in value.items()
        if one is not None
    }


def known_fields(kind: Kind, body: dict[str, Any], *, refuse_unknown: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields that mean something here, and the names of the others.

    Raises:
        InvalidRequestError: a field is unknown and may not be; names it.
    """
    known = FIELDS[kind]
    unknown = tuple(sorted(body.keys() - known))
    if refuse_unknown:
        refuse(unknown)
    return {name: value for name, value in body.items() if name in known}, unknown


def refuse(unknown: Sequence[str]) -> None:
    """Raises: InvalidRequestError: there is any; names the first, as OpenAI does."""
    if unknown:
        name = unknown[0][:64]
        raise InvalidRequestError(f"Unrecognized request argument supplied: {name}", param=name)


def check_bounds(kind: Kind, body: dict[str, Any], bounds: InputBounds) -> None:
    """Raises: InvalidRequestError: a field is larger than the bounds allow; names it."""
    _at_most(body, "messages", bounds.max_messages)
    if kind == "response":
        _at_most(body, "input", bounds.max_messages)
    _at_most(body, "tools", bounds.max_tools)
    _at_most(body, "logit_bias", bounds.max_logit_bias)
    for field in ("stop", "stop_sequences"):
        _check_stop(body, field, bounds)
    routing = body.get("routing")
    if isinstance(routing, dict):
        _at_most(routing, "models", bounds.max_models, prefix="routing.")


def _check_stop(body: dict[str, Any], field: str, bounds: InputBounds) -> None:
    stop = body.get(field)
    _at_most(body, field, bounds.max_stop)
    for text in [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []:
        if isinstance(text, str) and len(text) > bounds.max_stop_chars:
            raise InvalidRequestError(
                f"{field}: a sequence of {len(text)} characters; at most {bounds.max_stop_chars} are allowed",
                param=field,
            )


def check_inputs(inputs: int, bounds: InputBounds) -> None:
    """Raises: InvalidRequestError: embeddings of too many texts are asked for."""
    if inputs > bounds.max_inputs:
        raise InvalidRequestError(
            f"input: {inputs} texts in one request; at most {bounds.max_inputs} are allowed", param="input"
        )


def check_sequences(prompts: int, n: int, bounds: InputBounds) -> None:
    """Raises: InvalidRequestError: the request asks for too many answers."""
    if prompts > bounds.max_prompts:
        raise InvalidRequestError(
            f"prompt: {prompts} prompts in one request; at most {bounds.max_prompts} are allowed", param="prompt"
        )
    if prompts * n > bounds.max_sequences:
        raise InvalidRequestError(
            f"n: {prompts * n} answers in one request; at most {bounds.max_sequences} are allowed", param="n"
        )


def _at_most(body: dict[str, Any], field: str, most: int, prefix: str = "") -> None:
    value = body.get(field)
    if isinstance(value, list | dict) and len(value) > most:
        name = f"{prefix}{field}"
        raise InvalidRequestError(f"{name}: {len(value)} entries; at most {most} are allowed", param=name)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(body: Any) -> None:
    level = [body]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InvalidRequestError(f"the body nests lists and objects more than {MAX_DEPTH} deep; flatten it")
