"""The configuration's sections on records of what was answered, and on what callers say of it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from apportion.router.checked import Section

if TYPE_CHECKING:
    from apportion.router.records.schema import Kind
    from apportion.router.records.store import Store
    from apportion.router.records.writer import SegmentWriter

SCHEMES = ("file", "gs", "s3")


def checked_store(uri: str) -> str:
    """Raises: ValueError: it is neither an absolute folder nor a URI of a store that is known."""
    scheme = urlsplit(uri).scheme
    if scheme and scheme not in SCHEMES:
        raise ValueError(f"{uri!r}: no store {scheme}:// is known; use one of {', '.join(SCHEMES)}, or a folder")
    if not scheme and not Path(uri).is_absolute():
        raise ValueError(f"{uri!r} is relative, and each process has a folder of its own; give it in full")
    return uri


class RecordsConfig(Section):
    """What is kept of every request that has ended."""

    uri: str = Field(
        description="An absolute folder, or s3://BUCKET/FOLDER or gs://BUCKET/FOLDER; with `prompts` one that every "
        "node with an ingress reaches, without them the Router's node is enough."
    )
    segment_rows: int = Field(1000, ge=1, le=100_000, description="Requests of a file; a full one is written at once.")
    segment_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Rows wait no longer for their file; so much is lost where a process is killed.",
    )
    keep_days: int | None = Field(90, ge=1, description="Older days are removed; null: none.")
    prompts: bool = Field(
        False,
        description="Keep what was asked, which `apportion outcomes` needs unless you have it elsewhere by the "
        "answers' ids; false: only a hash of it.",
    )
    signals: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of requests of which it is kept how sure the model was of its answer; engines are a little "
        "slower for these.",
    )

    @field_validator("uri")
    @classmethod
    def _is_a_store(cls, uri: str) -> str:
        return checked_store(uri)

    def writer(self, *kinds: Kind, open_store: Callable[[], Store] | None = None) -> SegmentWriter:
        """What writes records of these kinds as it is said here, once it is started.

        Args:
            open_store: opens the store, in the writer's thread; None: as it is at `uri`.
        """
        # Here, not above: who reads a configuration needs no pyarrow.
        from apportion.router.records.store import Store
        from apportion.router.records.writer import SegmentWriter

        return SegmentWriter(
            open_store or partial(Store.open, self.uri),
            kinds,
            segment_rows=self.segment_rows,
            segment_s=self.segment_s,
            keep_days=self.keep_days,
        )


class FeedbackKind(StrEnum):
    """What a value may be."""

    boolean = "boolean"
    number = "number"
    text = "text"


class FeedbackKey(Section):
    """One thing that may be said of an answer."""

    kind: FeedbackKind = Field(description="boolean; number: from 0 to 1; or text.")
    score: bool = Field(
        False, description="It is how good the answer was, 0 to 1: what is learned from, and watched for drift."
    )

    @model_validator(mode="after")
    def _scores_are_numbers(self) -> FeedbackKey:
        if self.score and self.kind is FeedbackKind.text:
            raise ValueError("score: a text is none; make its kind boolean or number, or leave score out")
        return self


class FeedbackConfig(Section):
    """What callers may say of answers at /v1/feedback; needs `records`, where it is kept."""

    keys: dict[Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")], FeedbackKey] = Field(
        min_length=1, description="By name, what may be said; other names are answered with 400."
    )
    days: float = Field(30.0, gt=0, description="An answer may be judged for so long.")

    @model_validator(mode="after")
    def _one_score(self) -> FeedbackConfig:
        scores = [name for name, key in self.keys.items() if key.score]
        if len(scores) > 1:
            raise ValueError(f"keys: {', '.join(scores)} are all said to be the score; choose one")
        return self

    @property
    def score_key(self) -> str | None:
        """The key that says how good an answer was."""
        return next((name for name, key in self.keys.items() if key.score), None)
