"""What the owner of a job asks of its planning."""

from __future__ import annotations

from pydantic import Field

from apportion.router.checked import Section


class JobRouting(Section):
    """The field `routing` of a batch; its lines may have fields of their own in `body.routing`."""

    budget_usd: float | None = Field(
        None, gt=0, le=1e9, allow_inf_nan=False, description="All its requests may cost so much; null: no limit."
    )
    models: tuple[str, ...] | None = Field(None, min_length=1, description="Models that may answer; null: all.")
    best_effort: bool = Field(
        False,
        description="Where money or time does not suffice for all requests, answer as many as they do; the others end "
        "in the error file. False: the batch fails before anything is spent.",
    )
    cascade: bool = Field(
        True,
        description="Where the service has cascades (`routing.cascade`), a cheap model may answer first and a dearer "
        "one be asked where it is not sure enough. False: one model answers each request.",
    )
