"""A request as a provider takes it: in its names, and with the fields that it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apportion.deployments.config.external import ExternalConfig
from apportion.deployments.wire.api_fields import API_FIELDS
from apportion.deployments.wire.logprobs import asking_for_logprobs
from apportion.router.errors import InvalidRequestError

# Whatever a list of fields says: the content, and what makes this service's own sense of an answer.
_ALWAYS = frozenset(
    {
        "input",
        "instructions",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "messages",
        "model",
        "prompt",
        "stream",
        "stream_options",
        "system",
    }
)
_LENGTHS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_MEDIA = frozenset({"data", "url", "image_url", "file_data"})


@dataclass(frozen=True)
class Asked:
    """What is sent.

    Args:
        body: as JSON.
        ignored: fields that are left out.
        size: bytes of what the model reads, pictures and clips aside.
        longest: tokens of all answers together; None: as many as it likes.
        stream: whether the answer comes in events.
        usage_wanted: whether the client itself asks for usage in a stream.
        signals: whether its ingress asks how sure the model was, and the provider is asked for what tells it.
        logprobs_wanted: whether the client itself asks for log-probabilities.
    """

    body: bytes
    ignored: tuple[str, ...]
    size: int
    longest: int | None
    stream: bool
    usage_wanted: bool
    signals: bool = False
    logprobs_wanted: bool = True


def asked(kind: str, body: dict[str, Any], external: ExternalConfig, *, signals: bool = False) -> Asked:
    """The request that a body becomes.

    Args:
        kind: of request, as `API_FIELDS` has it.
        signals: whether its ingress asks how sure the model was.

    Raises:
        InvalidRequestError: it holds a field that the provider does not take, and the configuration refuses these.
    """
    taken = _taken(kind, external)
    ignored = () if taken is None else tuple(sorted(name for name in body if name not in taken))
    if ignored and external.unknown_fields == "refuse":
        raise InvalidRequestError(f"Unrecognized request argument supplied: {ignored[0][:64]}", param=ignored[0][:64])
    sent = {name: value for name, value in body.items() if name not in ignored} | {"model": external.model}
    stream = bool(sent.get("stream"))
    options = sent.get("stream_options")
    wanted = bool(isinstance(options, Mapping) and options.get("include_usage"))
    if kind == "chat":
        lengths = [sent.pop(name) for name in ("max_completion_tokens", "max_tokens") if name in sent]
        if lengths:
            sent[external.max_tokens_field] = lengths[0]
    if kind in {"chat", "completion"}:
        if stream:
            sent["stream_options"] = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
        else:
            sent.pop("stream_options", None)
    looks = signals and external.signals and kind in {"chat", "completion"}
    logprobs_wanted = sent.get("logprobs") not in {None, False}
    if looks and not logprobs_wanted:
        sent = asking_for_logprobs(sent)
    longest = next((value for name in _LENGTHS if isinstance(value := sent.get(name), int)), None)
    answers = sent["n"] if isinstance(sent.get("n"), int) else 1
    return Asked(
        json.dumps(sent, separators=(",", ":"), ensure_ascii=False).encode(),
        ignored,
        sum(_size(sent.get(name)) for name in (*_ALWAYS, "tools") if name in sent),
        None if longest is None else longest * answers,
        stream,
        wanted,
        looks,
        logprobs_wanted,
    )


def _taken(kind: str, external: ExternalConfig) -> frozenset[str] | None:
    if external.fields == "vllm":
        return None
    if external.fields == "openai":
        return API_FIELDS[kind]
    return _ALWAYS | frozenset(external.fields)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return sum(len(name) + (0 if name in _MEDIA else _size(one)) for name, one in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else 1
