"""`apportion bulk`: files of requests, answered within a window of time and a budget."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apportion.deployments.cli.application import JsonOption, console, errors, warn, writable_file, write_json
from apportion.router.errors import InvalidRequestError

if TYPE_CHECKING:
    from apportion.deployments.cli.bulk_client import BulkClient

NOT_ALL = 1
"""Exit code where a batch has ended without an answer to every request."""
MISTAKES_SHOWN = 10
ID_CHARS = 38  # of a batch's id, to be copied

bulk = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Have a file of requests answered within hours, within a budget, beside everything else.",
)
UrlOption = Annotated[str, typer.Option(envvar="OPENAI_BASE_URL", help="the service's endpoint, up to /v1")]
KeyOption = Annotated[
    str, typer.Option(metavar="NAME", help="environment variable that holds the API key, if one is needed")
]
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="its id, as `submit` and `list` show it")]
WaitOption = Annotated[bool, typer.Option("--wait", help="stay until it has ended, and show how far it is")]
URL, KEY = "http://127.0.0.1:8000/v1", "OPENAI_API_KEY"


@bulk.command()
def submit(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help=".jsonl in the form of OpenAI's Batch API"),
    ],
    window: Annotated[
        str, typer.Option(metavar="Nm|Nh", help="time from now until which all has to be answered")
    ] = "24h",
    budget_usd: Annotated[float | None, typer.Option(min=0, help="all requests together cost no more")] = None,
    models: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="models that may answer [default: all]")
    ] = None,
    best_effort: Annotated[
        bool,
        typer.Option("--best-effort", help="answer as many as money and time suffice for, rather than none"),
    ] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade/--no-cascade", help="two models may answer a request, if the service has it so")
    ] = True,
    wait: WaitOption = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=writable_file, help="with --wait: where answers go; errors go beside it"),
    ] = None,
    url: UrlOption = URL,
    key_variable: KeyOption = KEY,
    json_file: JsonOption = None,
) -> None:
    """Upload a file of requests and have them answered.

    The batch goes on whatever becomes of this command. With --wait, exits with 1 where some request was not answered.

    Example: `apportion bulk submit requests.jsonl --budget-usd 12 --window 24h --wait --out answers.jsonl`
    """
    if out is not None and not wait:
        raise InvalidRequestError("--out: answers are there when all are; add --wait, or `apportion bulk fetch` later")
    routing = {
        "budget_usd": budget_usd,
        "models": [name.strip() for name in models.split(",")] if models else None,
        "best_effort": best_effort or None,
        "cascade": None if cascade else False,
    }
    body = {"endpoint": _endpoint(file), "completion_window": window}
    with _client(url, key_variable) as client:
        with errors.status(f"sending {file.name}"):
            file_id = client.upload(file)
        asked = {name: value for name, value in routing.items() if value is not None}
        batch = client.create(body | {"input_file_id": file_id} | ({"routing": asked} if asked else {}))
        errors.print(f"{batch['id']}: taken in", soft_wrap=True)
        _tell(client, batch, wait, out, json_file)


@bulk.command()
def show(
    batch: BatchArgument,
    wait: WaitOption = False,
    url: UrlOption = URL,
    key_variable: KeyOption = KEY,
    json_file: JsonOption = None,
) -> None:
    """Say how far a batch is, what it has cost, and what was wrong with it."""
    with _client(url, key_variable) as client:
        _tell(client, client.batch(batch), wait, None, json_file)


@bulk.command(name="list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="the newest so many")] = 20,
    url: UrlOption = URL,
    key_variable: KeyOption = KEY,
    json_file: JsonOption = None,
) -> None:
    """List your batches, the newest first."""
    from rich.table import Column, Table

    with _client(url, key_variable) as client:
        found = client.batches(limit)
    if write_json(found, json_file):
        return
    table = Table(Column("batch", min_width=ID_CHARS), "status", "requests", "failed", "USD", "made")
    for batch in found:
        counts, made = batch["request_counts"], datetime.fromtimestamp(batch["created_at"], UTC)
        done = f"{counts['completed'] + counts['failed']}/{counts['total']}"
        money = f"{batch['apportion']['spent_usd']:.4g}"
        table.add_row(batch["id"], batch["status"], done, str(counts["failed"]), money, f"{made:%Y-%m-%d %H:%M}")
    console.print(table)


@bulk.command()
def cancel(
    batch: BatchArgument,
    url: UrlOption = URL,
    key_variable: KeyOption = KEY,
) -> None:
    """Have a batch stop; what is answered by then is kept, and charged."""
    with _client(url, key_variable) as client:
        console.print(f"{batch}: {client.cancel(batch)['status']}", highlight=False)


@bulk.command()
def fetch(
    batch: BatchArgument,
    out: Annotated[
        Path, typer.Option(metavar="FILE", callback=writable_file, help="where answers go; errors go beside it")
    ],
    url: UrlOption = URL,
    key_variable: KeyOption = KEY,
) -> None:
    """Write the answers of a batch to a file, and what failed to another: `answers.jsonl`, `answers.errors.jsonl`."""
    with _client(url, key_variable) as client:
        _fetch(client, client.batch(batch), out)


@contextlib.contextmanager
def _client(url: str, key_variable: str) -> Iterator[BulkClient]:
    from apportion.deployments.cli.bulk_client import BulkClient

    with contextlib.closing(BulkClient(url, os.environ.get(key_variable))) as client:
        yield client


def _endpoint(file: Path) -> str:
    """The endpoint that the first request of a file names; the service checks the others."""
    with file.open("rb") as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        return str(json.loads(first)["url"])
    except (ValueError, KeyError, TypeError):
        raise InvalidRequestError(
            f'{file}: its first line is no request; write {{"custom_id", "method", "url", "body"}} as JSON'
        ) from None


def _tell(client: BulkClient, batch: dict[str, Any], wait: bool, out: Path | None, json_file: Path | None) -> None:
    """Shows a batch, once it has ended if that is waited for; exits with 1 if then some request was not answered."""
    if wait:
        try:
            batch = _watched(client, batch)
        except KeyboardInterrupt:
            warn(f"the batch goes on; `apportion bulk show {batch['id']}` says how far it is")
            raise
    if out is not None:
        _fetch(client, batch, out)
    if not write_json(batch, json_file):
        for line in _lines(batch):
            console.print(line, highlight=False, soft_wrap=True)
    if wait and (batch["status"] != "completed" or batch["request_counts"]["failed"]):
        raise typer.Exit(NOT_ALL)


def _watched(client: BulkClient, batch: dict[str, Any]) -> dict[str, Any]:
    """Waits for the end, with a bar of requests, money and time on the error stream."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.fields[status]:>11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors) as progress:
        bar = progress.add_task("", total=None, status="")
        for look in client.looks(batch):
            batch, counts = look, look["request_counts"]
            progress.update(
                bar,
                total=counts["total"] or None,
                completed=counts["completed"] + counts["failed"],
                description=_money(batch) + _left(batch),
                status=batch["status"],
            )
    return batch


def _money(batch: dict[str, Any]) -> str:
    told = batch["apportion"]
    planned = told.get("planned_usd")
    return f"{told['spent_usd']:.4g}" + (" USD" if planned is None else f" of {planned:.4g} USD planned")


def _left(batch: dict[str, Any]) -> str:
    eta = batch["apportion"].get("eta")
    if eta is None or batch["status"] != "in_progress":
        return ""
    left_s = max(0, int(eta - time.time()))
    return f", {left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left"


def _lines(batch: dict[str, Any]) -> Iterator[str]:
    counts = batch["request_counts"]
    yield (
        f"{batch['id']}: {batch['status']}; {counts['completed']} of {counts['total']} answered, "
        f"{counts['failed']} failed; {_money(batch)}{_left(batch)}"
    )
    for model, count in sorted(batch["apportion"].get("by_model", {}).items()):
        yield f"  {model}: {count}"
    if (cascades := batch["apportion"].get("cascades")) is not None:
        yield f"  {cascades['first_answers']} first answers of cascades, {cascades['asked_on']} asked on"
    mistakes = (batch["errors"] or {}).get("data", [])
    for mistake in mistakes[:MISTAKES_SHOWN]:
        where = "" if mistake["line"] is None else f"line {mistake['line']}: "
        field = "" if mistake["param"] is None else f"{mistake['param']}: "
        yield f"  {where}{field}{mistake['message']}"
    if len(mistakes) > MISTAKES_SHOWN:
        yield f"  and {len(mistakes) - MISTAKES_SHOWN} more; --json has all that the service tells"


def _fetch(client: BulkClient, batch: dict[str, Any], out: Path) -> None:
    """Writes the batch's files, those that there are."""
    places = {batch["output_file_id"]: out, batch["error_file_id"]: out.with_suffix(f".errors{out.suffix}")}
    places.pop(None, None)
    if not places:
        warn(f"{batch['id']} is {batch['status']} and has no file of answers")
    for file_id, place in places.items():
        client.fetch(file_id, place)
        errors.print(f"{place}: written", soft_wrap=True)
