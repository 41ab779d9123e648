"""The configuration's section on bulk jobs: where files lie, how large they may be, and what jobs leave to others."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from apportion.deployments.config.budget import BudgetConfig
from apportion.deployments.config.records import checked_store
from apportion.router.batch.reservations.bulk_share import BulkRule
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.checked import Section, nearest
from apportion.router.jobs.blobs import open_blobs

JOBS_FILE = "jobs.db"
_WINDOW = re.compile(r"([1-9][0-9]{0,5})([mh])")
_SECONDS = {"m": 60, "h": 3600}


def window_s(window: str) -> int:
    """Seconds of a `completion_window`: `Nm` or `Nh`.

    Raises:
        ValueError: it is none.
    """
    found = _WINDOW.fullmatch(window)
    if found is None:
        raise ValueError(f"{window[:20]!r} is no window of time; write minutes or hours, as 90m or 24h")
    return int(found[1]) * _SECONDS[found[2]]


class BulkConfig(Section):
    """Files of requests that are answered within hours, at /v1/files and /v1/batches."""

    storage: str | None = Field(
        None,
        description="An absolute folder, or s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, that every node with an ingress "
        "reaches; null: `apportion/bulk` in $XDG_DATA_HOME or ~/.local/share, for a service on one machine.",
    )
    max_file_bytes: int = Field(512 << 20, ge=1024, description="Larger files are answered with 413.")
    max_stored_bytes: int = Field(
        16 << 30, ge=1024, description="Of all files of an API key and tenant together, results included."
    )
    max_lines: int = Field(100_000, ge=1, description="Most requests of a batch; one with more fails.")
    max_line_bytes: int = Field(4 << 20, ge=1024, description="Of a request; a batch with a longer one fails.")
    max_open: int = Field(100, ge=1, description="Most batches of an API key and tenant that have not ended.")
    max_window: str = Field("168h", description="Longest `completion_window`, as `90m` or `24h`.")
    file_days: float = Field(30.0, gt=0, description="Files are removed after so long, unless they say when.")
    reserve: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict,
        description="Slots by model that batches leave free for everybody else; those of models that are not named are "
        "1.5 times the square root of all that a model has. One slot of each model is left to batches.",
    )
    least_reserve: int = Field(
        0, ge=0, description="Slots of each model that stay free even where a batch is behind its deadline."
    )
    max_share: float = Field(1.0, gt=0, le=1, description="Of each model's slots that batches may hold.")
    only: bool = Field(False, description="The service is there for batches, which leave nothing free.")
    price_factor: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Times a model's price is what a request of a batch costs; 0.5 is OpenAI's custom.",
    )
    attempts: int = Field(
        5, ge=1, le=100, description="Tries of a request whose engines fail, 1, 2, 4 ... 60 s apart, before it fails."
    )
    num_replicas: int = Field(1, ge=1, description="Replicas that run batches, and share them.")
    num_cpus: float = Field(0.25, ge=0, description="CPUs that Ray reserves for one.")

    @field_validator("storage")
    @classmethod
    def _is_a_store(cls, uri: str | None) -> str | None:
        return None if uri is None else checked_store(uri)

    @field_validator("max_window")
    @classmethod
    def _is_a_window(cls, window: str) -> str:
        window_s(window)
        return window

    def check_models(self, served: Collection[str]) -> None:
        """Raises: ValueError: the reserve is of a model that is not served."""
        for name in self.reserve:
            if name not in served:
                raise ValueError(f"bulk.reserve: {name!r} is no model of this service{nearest(name, served)}")

    def rule(self) -> BulkRule:
        """What batches leave of the models' slots."""
        return BulkRule(self.reserve, self.least_reserve, self.max_share, self.only)

    @property
    def place(self) -> str:
        """The folder or URI where files lie."""
        if self.storage is not None:
            return self.storage
        share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        return str(Path(share) / "apportion/bulk")

    @property
    def folder(self) -> Path | None:
        """The same where it is a folder."""
        path = self.place.removeprefix("file://")
        return None if "://" in path else Path(path)

    def ledger(self, owner: str | None) -> BudgetLedger:
        """Of what jobs cost where there is no `budget` section, beside the files.

        Args:
            owner: the service whose newest router opens it; see `BudgetLedger`.

        Raises:
            ConfigurationError: it cannot be opened.
        """
        open_blobs(self.place)
        return BudgetLedger(self.database_url(None), owner=owner)

    def database_url(self, budget: BudgetConfig | None) -> str:
        """Of the database that remembers files, jobs and their money: the ledger's, or a file beside the files.

        Raises:
            ConfigurationError: the ledger's URL is not where it should be.
        """
        return f"sqlite:///{self.folder}/{JOBS_FILE}" if budget is None else budget.url()
