"""Files, batches and pages of them as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apportion.router.budget import from_nano
from apportion.router.jobs.records import FileRecord, Job
from apportion.router.jobs.segments import Tokens
from apportion.router.jobs.states import STAMPS


def file_object(file: FileRecord) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": {"object": "list", "data": job.errors} if job.errors else None,
        "input_file_id": job.input_file_id,
        "completion_window": job.completion_window,
        "status": job.status.value,
        "output_file_id": job.output_file_id,
        "error_file_id": job.error_file_id,
        "expires_at": job.expires_at,
        **{stamp: job.stamps.get(stamp) for stamp in STAMPS.values()},
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "usage": _usage(job.tokens) if any(job.tokens) else None,
        "metadata": job.metadata,
        "apportion": {"spent_usd": from_nano(job.spent_nano), "routing": job.routing, **job.told},
    }


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }


def page(objects: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A part of a list, of which `after=last_id` asks for the next."""
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }
