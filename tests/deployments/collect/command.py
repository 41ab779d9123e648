"""`apportion collect` as the tests run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from apportion.deployments.cli import app
from tests.deployments.collect.openai_server import FakeOpenAI

REGEX = r"regex:answer is (\d+)"


def words_of(server: FakeOpenAI, prompts: Path, out: Path, models: str, *more: str, judge: str = REGEX) -> list[str]:
    endpoint = ["--url", server.url, "--models", models]
    return ["collect", *endpoint, "--prompts", str(prompts), "--judge", judge, "--out", str(out), *more]


def run(*given: Any, judge: str = REGEX, code: int = 0, **env: str) -> Result:
    result = CliRunner().invoke(app, words_of(*given, judge=judge), env=env)
    assert result.exit_code == code, result.output
    return result


FIRST = "What is 0 plus 2?"


def many(folder: Path, n: int = 12) -> Path:
    file = folder / "many.txt"
    file.write_text("".join(f"What is {i} plus 2?\n" for i in range(n)))
    return file
