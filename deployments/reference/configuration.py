"""docs/reference/configuration.md: every field of every file that the service and the planner read."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from enum import Enum
from inspect import getdoc
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from apportion.allocation.cluster import ClusterFile
from apportion.allocation.models import ModelsFile
from apportion.allocation.replica import ProfilesFile
from apportion.deployments.config.keys import KeyEntry
from apportion.deployments.config.routing import LivePolicy
from apportion.deployments.config.service import LivePredictor, ServiceConfig
from apportion.deployments.kubernetes.values import Values
from apportion.deployments.reference.tables import table

Model = type[BaseModel]
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything", type(None): "null"}
BOUNDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}", "pattern": "matches `{}`"}
LENGTHS = {"min_length": "at least {}", "max_length": "at most {}"}
# By the end of a field's name, the longest first.
UNITS_BY_NAME = {
    "replicas": "replicas",
    "seconds": "s",
    "weight_per_s": "chance/s",
    "usd_per_million": "USD per 10^6 tokens",
    "usd_per_request": "USD",
    "usd_per_hour": "USD/h",
    "usd_per_kwh": "USD/kWh",
    "bits_per_weight": "bits",
    "bytes_per_token": "bytes",
    "bytes_per_sequence": "bytes",
    "reserve": "slots",
    "attempts": "attempts",
    "price_factor": "times",
    "slices": "slices",
    "capability": "10 x version",
    "years": "years",
    "kw": "kW",
    "gb_per_s": "10^9 bytes/s",
    "tokens_per_s": "tokens/s",
    "requests_per_minute": "requests/min",
    "tflops": "10^12 FLOP/s",
    "model_len": "tokens",
    "num_seqs": "sequences",
    "bytes": "bytes",
    "chars": "characters",
    "days": "days",
    "gib": "GiB",
    "usd": "USD",
    "ms": "ms",
    "s": "s",
}
# Otherwise the description's first word that is one.
UNITS_BY_DESCRIPTION = (
    "share", "chance", "tokens", "GPUs", "CPUs", "replicas", "requests", "messages", "prompts", "answers", "sequences",
    "tools", "steps", "entries", "names", "threads", "plans", "nodes", "pods", "pictures", "clips", "conversations",
    "texts", "batches",
)  # fmt: skip


class File(NamedTuple):
    """A file, or a part of one: its heading, what it is, and the shape of its content."""

    title: str
    meaning: str
    model: Model


FILES = (
    File("The service", "`args` of the application in `serve_config.yaml`.", ServiceConfig),
    File(
        "The policy of a running service",
        "`user_config` of the deployment `Router` in `serve_config.yaml`; `serve deploy` changes it without a restart. "
        "A field that it leaves out is as in `args`.",
        LivePolicy,
    ),
    File(
        "The predictor of a running service",
        "`user_config` of the deployment `Predictor` in `serve_config.yaml`; `serve deploy` changes it without a "
        "restart, and the one before predicts until the new one is loaded.",
        LivePredictor,
    ),
    File("API keys", "Each entry of the list that `keys.file` or `keys.env` names.", KeyEntry),
    File("The cluster that is planned for", "`cluster.yaml`, for `apportion plan --cluster`.", ClusterFile),
    File("The models that are planned for", "`models.yaml`, for `apportion plan --models`.", ModelsFile),
    File("Kubernetes", "`values.yaml`, for `apportion render --kubernetes`.", Values),
    File("Profiles", "What `apportion profile` writes and `apportion plan --profiles` reads.", ProfilesFile),
)
INTRODUCTION = """# Configuration

Every field of every file, made from the code by `make reference`. Fields marked **required** have no default; an
unknown field is refused. `models[].name` is the field `name` of each entry of the list `models`, and `gpu_types.*` is
each value of the mapping `gpu_types`."""


def configuration_page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for file in FILES:
        lines += ["", f"## {file.title}", "", file.meaning]
        seen: dict[Model, str] = {}
        for path, model in sections(file.model):
            seen.setdefault(model, path)
        for model, path in seen.items():
            lines += ["", *_section(path, model, seen)]
    return "\n".join(lines) + "\n"


def sections(model: Model, path: str = "") -> Iterator[tuple[str, Model]]:
    """The model and all that its fields hold, with their paths from the top of the file."""
    yield path, model
    for name, field in model.model_fields.items():
        for suffix, inner in _inner(field.annotation):
            yield from sections(inner, f"{path}.{name}{suffix}".lstrip("."))


def unit(name: str, description: str) -> str:
    """What a number counts, as its name or else its description says; empty where neither does."""
    for ending, found in UNITS_BY_NAME.items():
        if f"_{name}".endswith(f"_{ending}"):
            return found
    units = {found.lower(): found for found in UNITS_BY_DESCRIPTION}
    return next((units[word] for word in re.findall(r"\w+", description.lower()) if word in units), "")


def is_number(annotation: Any) -> bool:
    """Whether a field holds one number (or null)."""
    return any(part in (int, float) for part in (annotation, *_parts(annotation)))


def _section(path: str, model: Model, seen: dict[Model, str]) -> list[str]:
    heading = [f"### `{path}`", ""] if path else []
    about = [_sentences(model), ""] if getdoc(model) else []
    rows = [
        [
            f"`{name}`",
            _type(field.annotation, seen),
            _default(field),
            unit(name, field.description or "") if is_number(field.annotation) else "",
            _bounds(field),
            field.description or "",
        ]
        for name, field in model.model_fields.items()
    ]
    return heading + about + table(["field", "type", "default", "unit", "bounds", "meaning"], rows)


def _sentences(model: Model) -> str:
    return " ".join((model.__doc__ or "").split())


def _inner(annotation: Any) -> Iterator[tuple[str, Model]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    suffix = {tuple: "[]", list: "[]", dict: ".*"}.get(get_origin(annotation) or annotation, "")
    for part in get_args(annotation):
        for rest, model in _inner(part):
            yield suffix + rest, model


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()


def _type(annotation: Any, seen: dict[Model, str]) -> str:
    if annotation in PLAIN:
        return PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"section `{seen[annotation]}`"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"mapping, each: {_type(arguments[1], seen)}"
    if origin in (tuple, list):
        return f"list, each: {' and '.join(_type(part, seen) for part in arguments if part is not Ellipsis)}"
    return " or ".join(_type(part, seen) for part in arguments)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its fields' defaults"
    return "" if value is PydanticUndefined else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return str(list(value))
    return str(value) if value != "" else '""'


def _bounds(field: FieldInfo) -> str:
    holds_many = get_origin(field.annotation) in (tuple, list) or any(map(get_args, _parts(field.annotation)))
    what = "entries" if holds_many else "characters"
    found = []
    for constraint in field.metadata:
        for name, words in BOUNDS.items():
            if getattr(constraint, name, None) is not None:
                found.append(words.format(getattr(constraint, name)))
        for name, words in LENGTHS.items():
            if getattr(constraint, name, None) is not None:
                found.append(f"{words.format(getattr(constraint, name))} {what}")
    return ", ".join(found)
