"""What could not be written is refused before the work, whatever command would write it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from apportion.deployments.cli import app
from apportion.deployments.cli.application import writable_file, writable_folder
from apportion.router.errors import InvalidRequestError

WRITTEN = {"out", "json_file", "folder", "kubernetes"}


def commands() -> dict[str, typer.core.TyperCommand]:
    found = {}
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        found |= {name: command} | {f"{name} {sub}": one for sub, one in getattr(command, "commands", {}).items()}
    return found


def test_every_option_that_names_what_is_written_is_checked() -> None:
    written = [(name, one) for name, command in commands().items() for one in command.params if one.name in WRITTEN]
    assert len({name for name, _ in written}) > 10
    assert not [(name, one.name) for name, one in written if one.callback is None]


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--profiles", "none.yaml", "--out"],
        ["profile", "--cluster", "none.yaml", "--out"],
        ["assign", "predictor", "prompts.txt", "--out"],
        ["collect", "--prompts", "none", "--out"],
        ["render", "plan.json", "--out"],
        ["evaluate", "--data", "none", "--json"],
        ["simulate", "plan.json", "--json"],
        ["bulk", "fetch", "batch", "--out"],
    ],
)
def test_a_command_says_so_at_once(arguments: list[str], tmp_path: Path) -> None:
    for wrong, says in ((tmp_path / "absent" / "file.json", "there is no folder"), (tmp_path, "is a folder; name")):
        result = CliRunner().invoke(app, [*arguments, str(wrong)])
        assert result.exit_code == 2, result.output
        assert says in " ".join(result.output.split())


def test_folders_are_made_but_not_within_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert writable_folder(tmp_path / "new" / "deeper") == tmp_path / "new" / "deeper"
    assert writable_file(Path("-")) == Path("-")
    for wrong in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(InvalidRequestError, match="file is a file; name a folder"):
            writable_folder(wrong)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for check in (writable_file, writable_folder):
        with pytest.raises(InvalidRequestError, match="may not be written"):
            check(tmp_path / "new")
