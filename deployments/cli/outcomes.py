"""`apportion outcomes`: records and feedback in, an outcomes table out."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apportion.deployments.cli.application import JsonOption, console, writable_folder, write_json

if TYPE_CHECKING:
    import pandas as pd

    from apportion.router.records.join import Joined

RecordsOption = Annotated[str, typer.Option(metavar="URI", help="where the service keeps its records: `records.uri`")]
KeyOption = Annotated[
    str | None, typer.Option(help="the feedback that is the score, 0 to 1 [default: the only one that is a number]")
]
DaysOption = Annotated[int | None, typer.Option(min=1, help="only the newest days, today counted [default: all]")]
AskedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="what was asked, where the service does not keep it: .jsonl with `id` (the answer's, or its header "
        "x-router-id), and `prompt` or `messages` as in bodies",
    ),
]


def outcomes(
    records: RecordsOption,
    out: Annotated[Path, typer.Option(metavar="DIR", callback=writable_folder, help="folder to write the table to")],
    key: KeyOption = None,
    days: DaysOption = None,
    unjudged: Annotated[
        bool, typer.Option("--unjudged", help="with answers that nobody judged, whose lengths and costs are known")
    ] = False,
    prompts: AskedOption = None,
    json_file: JsonOption = None,
) -> None:
    """Join a service's records with the feedback on its answers: what `train`, `calibrate` and `evaluate` read.

    Each request was answered by one model, so each row holds that model's outcome. What callers said last of an answer
    counts. The service may run meanwhile; what it has not written yet (a minute's) is missing.

    Example: `apportion outcomes --records /var/lib/apportion/records --out table/`
    """
    from apportion.router.outcomes.files import write_outcomes

    joined = read_records(records, key, days, prompts, unjudged=unjudged)
    write_outcomes(joined.table, out)
    if not write_json(found(joined) | {"table": str(out)}, json_file):
        print_found(joined, out)


def read_records(
    records: str, key: str | None, days: int | None, prompts: Path | None, *, unjudged: bool = False
) -> Joined:
    """The outcomes that the options describe.

    Raises:
        ConfigurationError: the store cannot be read.
        OutcomesTableError: there is nothing in it to learn from.
    """
    from apportion.router.records.join import join
    from apportion.router.records.store import Store

    since = date.min if days is None else datetime.now(UTC).date() - timedelta(days=days - 1)
    asked = None if prompts is None else _asked(prompts)
    return join(Store.open(records), key, since=since, unjudged=unjudged, prompts=asked)


def found(joined: Joined) -> dict[str, Any]:
    """What was joined, for machines."""
    return {
        "requests": joined.requests,
        "answered": joined.answered,
        "judged": joined.judged,
        "without_prompt": joined.without_prompt,
        "feedback_without_record": joined.strays,
        "rows": len(joined.table),
        "rows_by_model": dict(joined.by_model),
    }


def print_found(joined: Joined, out: Path) -> None:
    """What was joined, for people."""
    console.print(
        f"{joined.requests} requests, {joined.answered} answered, {joined.judged} of these judged; {len(joined.table)} "
        f"rows in {out}",
        soft_wrap=True,
    )
    for model, count in joined.by_model.items():
        console.print(f"  {model}: {count}")
    if joined.without_prompt:
        console.print(f"{joined.without_prompt} left out: nobody knows what was asked", soft_wrap=True)
    if joined.strays:
        console.print(f"{joined.strays} judged answers have no record: their segments were lost, or are pruned")


def _asked(file: Path) -> pd.DataFrame:
    import pandas as pd

    from apportion.router.errors import OutcomesTableError
    from apportion.router.outcomes.columns import require
    from apportion.router.outcomes.requests import requests
    from apportion.router.outcomes.table import TRAIT_COLUMNS
    from apportion.router.records.names import bare_name
    from apportion.router.texts import numbered_objects

    rows = numbered_objects(file, OutcomesTableError)
    frame = pd.DataFrame([dict(row) for _, row in rows], dtype=object)
    require(frame, ("id", "messages" if "messages" in frame and "prompt" not in frame else "prompt"), file.name)
    read = requests(frame, lambda row: f"{file.name}, line {rows[row][0]}")
    plain = pd.DataFrame({"id": frame["id"].astype(str).map(bare_name), **read})
    for column in TRAIT_COLUMNS:
        if column not in plain:
            plain[column] = 1 if column == "request_turns" else 0
    return plain.drop_duplicates("id", keep="last")
