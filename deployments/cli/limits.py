"""The option `--limits`: a file of limits that hold for a whole file of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from apportion.allocation.yaml_files import YamlFile
from apportion.router.checked import Section, nearest
from apportion.router.jobs.planning.workload import JobLimit
from apportion.router.variants import covers


class FileLimit(Section):
    """At most so much of all requests on some models together."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$", description="It is told by.")
    of: Literal["requests", "tokens", "cost_usd"] = Field(
        "requests", description="requests, generated tokens as expected, or USD as expected."
    )
    at_most: float | None = Field(None, ge=0, description="Of that, in all; null: `share` says how many.")
    share: float | None = Field(None, gt=0, le=1, description="Share of the file's requests.")
    models: tuple[str, ...] | None = Field(
        None, min_length=1, description="Where it holds: models, each with all of its variants, or variants. Null: all."
    )

    @model_validator(mode="after")
    def _one_number(self) -> FileLimit:
        if (self.at_most is None) == (self.share is None):
            raise ValueError("a limit has `at_most` or `share`: give one of them")
        if self.share is not None and self.of != "requests":
            raise ValueError(f"share: is of requests, and this limit counts {self.of}; give `at_most`")
        return self

    def limit(self, columns: tuple[str, ...], rows: int) -> JobLimit:
        """The limit of a file of so many rows."""
        held = (j for j, name in enumerate(columns) if self.models is None or covers(self.models, name))
        most = self.at_most if self.at_most is not None else (self.share or 0.0) * rows
        return JobLimit(self.name, self.of, most, tuple(held))


class FileLimits(Section):
    """What a file of limits holds."""

    limits: tuple[FileLimit, ...] = Field(min_length=1, description="All of them hold.")


def read_limits(path: Path, columns: tuple[str, ...]) -> tuple[FileLimit, ...]:
    """The limits of a file.

    Args:
        columns: models or variants that requests are assigned to.

    Raises:
        ConfigurationError: the file is missing or wrong; names file, line, field and mend.
    """
    file = YamlFile.read(path, "give the path of a file with `limits:`")
    limits = file.checked(FileLimits).limits
    names: set[str] = set()
    for number, limit in enumerate(limits):
        if limit.name in names:
            raise file.fault(("limits", number, "name"), f"{limit.name!r} stands twice; give each limit its own")
        names.add(limit.name)
        for one in limit.models or ():
            if not any(covers([one], name) for name in columns):
                raise file.fault(("limits", number, "models"), f"{one!r} is no model here{nearest(one, columns)}")
    return limits
