"""A file and a job, as the store knows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apportion.router.budget import Account
from apportion.router.jobs.segments import NO_TOKENS, Tokens
from apportion.router.jobs.states import STAMPS, TERMINAL, Stamp, Status


@dataclass(frozen=True)
class FileRecord:
    """A file, whose bytes lie at `path`.

    Args:
        purpose: `batch` or `batch_output`.
        created_at, expires_at: seconds since 1970; None: never.
    """

    id: str
    owner: Account
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    @property
    def path(self) -> str:
        return path_of_file(self.id)


def path_of_file(file_id: str) -> str:
    """Where its bytes lie."""
    return f"files/{file_id}"


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Args:
        owner: whose it is, and who pays.
        stamps: when it came into the states that it has been in, in seconds since 1970.
        expires_at: what is not answered by then is not answered.
        output_expires_s: its output files live so long, from their making; None: as the service has it.
        total, completed, failed: requests.
        spent_nano: nano-USD.
        errors: what was wrong with it, as `LineMistake.told`.
        metadata: its owner's own.
        routing: what was asked of its routing.
        caller: what its owner may do, as it stood when the job was made.
        told: what the service says of it beyond OpenAI's fields.
        plan: its runner's own, which nobody else reads.
        holder: who works on it until `lease_until_s`; None: nobody has.
        epoch: of the lease; the highest holds.
    """

    id: str
    owner: Account
    endpoint: str
    input_file_id: str
    completion_window: str
    expires_at: int
    status: Status = Status.validating
    stamps: Mapping[Stamp, int] = field(default_factory=dict)
    output_expires_s: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    spent_nano: int = 0
    tokens: Tokens = NO_TOKENS
    errors: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, str] | None = None
    routing: dict[str, Any] = field(default_factory=dict)
    caller: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    holder: str | None = None
    epoch: int = 0
    lease_until_s: float = 0.0

    @property
    def created_at(self) -> int:
        return self.stamps["created_at"]

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


_JSON = ("tokens", "errors", "metadata", "routing", "caller", "told", "plan")


def columns_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record as its table has them."""
    columns = dict(values)
    for name in _JSON:
        if columns.get(name) is not None:
            columns[name] = json.dumps(columns[name])
    if "owner" in columns:
        columns["owner"] = owner_text(columns["owner"])
    columns.update(columns.pop("stamps", {}))
    return columns


def owner_text(owner: Account) -> str:
    return json.dumps([owner.key, owner.tenant])


def file_of(row: Mapping[str, Any]) -> FileRecord:
    return FileRecord(**{**row, "owner": Account(*json.loads(row["owner"]))})


def job_of(row: Mapping[str, Any]) -> Job:
    values = dict(row)
    stamps = {stamp: values.pop(stamp) for stamp in STAMPS.values()}
    for name in _JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    values["stamps"] = {stamp: at for stamp, at in stamps.items() if at is not None}
    values["owner"] = Account(*json.loads(values["owner"]))
    values["status"] = Status(values["status"])
    values["tokens"] = Tokens(*values["tokens"])
    return Job(**values)
