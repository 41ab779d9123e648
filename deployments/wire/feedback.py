"""What is said of an answer, on its way from an ingress to the records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Feedback:
    """One call of /v1/feedback, with the columns of `router.records.schema.FEEDBACK`.

    Args:
        id: the answer's.
        time: when it was said.
        key: what is said of it, by its name.
        number: 0 to 1; a boolean is one of the two.
        text: said in words; neither a number nor a text: what was said before is taken back.
        comment: beside it.
    """

    id: str
    time: datetime
    key: str
    number: float | None
    text: str | None
    comment: str | None
