"""What callers say of files and batches, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from apportion.deployments.config.bulk import BulkConfig, window_s
from apportion.deployments.config.models import AUTO_MODEL
from apportion.deployments.ingress.bounds import decode, refuse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.keys.caller import Caller
from apportion.router.checked import mistakes
from apportion.router.errors import InvalidRequestError, ModelDeniedError, UnknownModelError
from apportion.router.jobs.lines import Endpoint
from apportion.router.jobs.routing import JobRouting

MAX_BODY_BYTES = 1 << 18
DAY_S = 86_400
MAX_EXPIRY_S = 30 * DAY_S
MAX_PAIRS = 16  # of metadata
ExpirySeconds = Annotated[int, Field(ge=3600, le=MAX_EXPIRY_S)]
_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]


class Expiry(BaseModel):
    """When a file is removed."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"] = Field(description="From when on.")
    seconds: ExpirySeconds = Field(description="For how long.")


class BatchBody(BaseModel):
    """The body of `/v1/batches`."""

    input_file_id: str = Field(min_length=1, max_length=64, description="A file with the purpose `batch`.")
    endpoint: Endpoint = Field(description="That all its lines name.")
    completion_window: str = Field(description="Its time from now on: `Nm` or `Nh`, `bulk.max_window` at most.")
    metadata: dict[_Key, _Value] | None = Field(None, max_length=MAX_PAIRS, description="The caller's own.")
    output_expires_after: Expiry | None = Field(None, description="Of the files that it makes.")
    routing: JobRouting = Field(default_factory=lambda: JobRouting(), description="How it is planned.")

    @field_validator("completion_window")
    @classmethod
    def _is_a_window(cls, window: str) -> str:
        window_s(window)
        return window

    @property
    def window_s(self) -> int:
        return window_s(self.completion_window)


def read_batch(raw: bytes, config: BulkConfig, rules: Rules, caller: Caller) -> tuple[BatchBody, list[str]]:
    """What the caller asks for, and the names of fields that mean nothing here.

    Raises:
        InvalidRequestError: the body is wrong; names the field.
        UnknownModelError: a model is not served here.
        ModelDeniedError: the caller may use none of the models.
    """
    body = decode(raw)
    if not isinstance(body, dict):
        raise InvalidRequestError(f"the body must be a JSON object, not {type(body).__name__}")
    unknown = sorted(body.keys() - BatchBody.model_fields.keys())
    if unknown and rules.refuse_unknown:
        refuse(unknown)
    checked = validated(BatchBody, {name: body[name] for name in body.keys() & BatchBody.model_fields.keys()})
    if checked.window_s > window_s(config.max_window):
        raise InvalidRequestError(
            f"completion_window: {checked.completion_window} is longer than {config.max_window}; shorten it",
            param="completion_window",
        )
    for name in checked.routing.models or ():
        if name not in rules.models:
            raise UnknownModelError(
                f"the model {name!r} does not exist; use some of {', '.join(rules.models)}", param="routing.models"
            )
    wanted = checked.routing.models or rules.models
    if not any(caller.may_use(name) for name in wanted):
        raise ModelDeniedError(f"{caller.who} may not use {', '.join(wanted)}", param="routing.models")
    return checked, unknown


def validated(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Raises: InvalidRequestError: a value is wrong; names the first."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistake = mistakes(error, drop_tags=True)[0]
        raise InvalidRequestError(str(mistake), param=mistake.field) from None


def number_asked(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A number from 1 to `most` of a query. Raises: InvalidRequestError: it is none."""
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise InvalidRequestError(f"{name}: give a number from 1 to {most}", param=name)
    return int(text)


def choice_asked(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of these of a query, the first where it says nothing. Raises: InvalidRequestError: it is none of them."""
    value = query.get(name, choices[0])
    if value not in choices:
        raise InvalidRequestError(f"{name}: give {' or '.join(choices)}", param=name)
    return value


def wrong_model(rules: Rules, caller: Caller) -> Callable[[str], str | None]:
    """What says whether a line's model is served here and its caller may use it: None, or what is wrong."""
    usable = [name for name in rules.models if caller.may_use(name)]

    def wrong(name: str) -> str | None:
        model = rules.model_of(name)
        if model == AUTO_MODEL or model in usable:
            return None
        return f"the model {name[:80]!r} is not one that {caller.who} may use; name {AUTO_MODEL!r} or one of {usable}"

    return wrong
