"""The base of all sections of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown fields are mistakes; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
