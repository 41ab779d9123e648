"""What the commands share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apportion.deployments.cli.application import write_json

RESULT = {"a": [1, 2.5, None]}


def test_a_file_leaves_the_standard_output_to_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not write_json(RESULT, tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == RESULT
    assert capsys.readouterr().out == ""


def test_a_dash_takes_the_standard_output_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_json(RESULT, Path("-"))
    assert json.loads(capsys.readouterr().out) == RESULT


def test_without_the_option_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert not write_json(RESULT, None)
    assert capsys.readouterr().out == ""
