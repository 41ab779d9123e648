"""Reads the body of `/v1/feedback`: what a caller says of one of its answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apportion.deployments.config.records import FeedbackConfig, FeedbackKey, FeedbackKind
from apportion.deployments.ingress.bounds import decode
from apportion.deployments.ingress.naming import Naming
from apportion.deployments.wire.feedback import Feedback
from apportion.router.budget import Account
from apportion.router.checked import mistakes, nearest
from apportion.router.errors import InvalidRequestError, UnknownAnswerError

MAX_BODY_BYTES = 4096


class FeedbackBody(BaseModel):
    """The body of `/v1/feedback`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=200, description="The answer's `id`, or its header `x-router-id`.")
    key: str = Field(min_length=1, max_length=64, description="What is said of it: one of `feedback.keys`.")
    value: bool | float | str | None = Field(
        description="As the key's kind wants it: true or false, a number from 0 to 1, or a text; null takes back what "
        "was said."
    )
    comment: str | None = Field(None, description="Why.")


def read_feedback(raw: bytes, account: Account, naming: Naming, config: FeedbackConfig | None) -> Feedback:
    """What the caller says.

    Raises:
        InvalidRequestError: the body is wrong; names the field.
        UnknownAnswerError: the answer is none of the caller's, or nothing can be said of answers here.
    """
    if config is None:
        raise UnknownAnswerError("this service keeps no feedback; have its operator add `records` and `feedback`")
    body = _checked(decode(raw, nulls=True))
    key = config.keys.get(body.key)
    if key is None:
        known = ", ".join(config.keys)
        raise InvalidRequestError(f"key: {body.key!r} is none of {known}{nearest(body.key, config.keys)}", param="key")
    name = naming.own(body.id, account)
    if name is None:
        raise UnknownAnswerError(
            f"id: no answer to this caller within {config.days:g} days has it; give the `id` of the answer, or its "
            "header x-router-id",
            param="id",
        )
    number, text = _value(body, key)
    return Feedback(name, datetime.now(UTC), body.key, number, text, body.comment)


def _checked(body: Any) -> FeedbackBody:
    if not isinstance(body, dict):
        raise InvalidRequestError(f"the body must be a JSON object, not {type(body).__name__}")
    try:
        return FeedbackBody.model_validate(body)
    except ValidationError as error:
        first = mistakes(error, drop_tags=True)[0]
        raise InvalidRequestError(str(first), param=first.field) from None


def _value(body: FeedbackBody, key: FeedbackKey) -> tuple[float | None, str | None]:
    """The value as a number and as a text, one of which it is; neither is null's."""
    value = body.value
    if value is None:
        return None, None
    if key.kind is FeedbackKind.text and isinstance(value, str):
        return None, value
    if key.kind is FeedbackKind.boolean and isinstance(value, bool):
        return float(value), None
    if key.kind is FeedbackKind.number and isinstance(value, float) and 0 <= value <= 1:
        return value, None
    wanted = {"boolean": "true or false", "number": "a number from 0 to 1", "text": "a text"}[key.kind]
    raise InvalidRequestError(f"value: {body.key} takes {wanted}, or null to take back what was said", param="value")
