"""The Typer application, and what its commands share: clean errors, progress bars, output for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

from apportion.router.errors import ApportionError, InvalidRequestError
from apportion.router.threads import share_cores

EXIT_CODE = 2

# What is printed comes from users (prompts, names, paths): brackets and colons in it are no markup and no emoji.
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)


def writable_file(file: Path | None) -> Path | None:
    """For options that name a file to write: refuses what could not be written, before the work.

    Raises:
        InvalidRequestError: it is a folder, its folder is not there, or neither may be written.
    """
    if file is None or str(file) == "-":
        return file
    if file.is_dir():
        raise InvalidRequestError(f"{file} is a folder; name a file in it")
    if not file.parent.is_dir():
        raise InvalidRequestError(f"{file}: there is no folder {file.parent}; make it first")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InvalidRequestError(f"{file} may not be written; mend its permissions, or name another")
    return file


def writable_folder(folder: Path | None) -> Path | None:
    """For options that name a folder to write into, which is made if need be: as `writable_file`.

    Raises:
        InvalidRequestError: it is a file or is in one, or may not be written.
    """
    there = folder
    while there is not None and not there.exists() and there != there.parent:
        there = there.parent
    if there is not None and not there.is_dir():
        raise InvalidRequestError(f"{folder}: {there} is a file; name a folder")
    if there is not None and not os.access(there, os.W_OK):
        raise InvalidRequestError(f"{folder}: {there} may not be written; mend its permissions, or name another")
    return folder


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=writable_file, help="write the result as JSON too; - prints JSON alone"
    ),
]


def _beside_other_work(device: str) -> str:
    share_cores()  # here, since every command that takes a device is about to import torch
    return device


DeviceOption = Annotated[
    str, typer.Option(callback=_beside_other_work, help="auto (a GPU when there is one), cpu, cuda, cuda:1, ...")
]


class CleanErrors(TyperGroup):
    """Prints the project's errors as one message, without a traceback, and exits with code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ApportionError as error:
            errors.print(Text("Error:", style="bold red"), error.message, highlight=False, soft_wrap=True)
            raise typer.Exit(EXIT_CODE) from error


app = typer.Typer(
    name="apportion",
    cls=CleanErrors,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Batch-level LLM routing: the best quality within budget and capacity.

    1. `collect` asks your models your prompts and records how they do; `train` learns from such a table of past
       outcomes how each model fares on which prompts.
    2. `predict` shows success, answer length and cost of every model for a prompt.
    3. `assign` decides for a file of prompts which model answers which, within a budget.
    4. `evaluate` measures on your own outcomes what routing would gain.
    5. `profile`, `plan`, `render`, `simulate` decide what runs on which GPU, and write it down.
    6. `serve` answers OpenAI requests from the models, each from the one that was chosen; `init` writes a
       configuration to start from, `check` says what is wrong with one, `key` makes API keys.
    7. `bulk` has it answer files of requests within hours and a budget.
    """,
)


class StageBars:
    """One progress bar a stage; called with (stage, steps done, steps at most)."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of the stage."""
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._bars[stage], completed=done, total=total)


@contextmanager
def stage_bars() -> Iterator[StageBars]:
    """Progress bars on the error stream, so that output can be piped."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=False) as progress:
        yield StageBars(progress)


def warn(text: str) -> None:
    """A line on the error stream, so that output can be piped."""
    errors.print(Text("Warning:", style="yellow"), Text(text), soft_wrap=True)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the command line names this option, rather than leave it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def write_json(result: object, file: Path | None) -> bool:
    """Write the result to `file`, or to the standard output for `-`.

    Returns:
        Whether the standard output belongs to machines, so that nothing is to be printed for people.
    """
    if file is None:
        return False
    text = json.dumps(result, indent=2) + "\n"
    if str(file) != "-":
        file.write_text(text)
        return False
    sys.stdout.write(text)
    return True
