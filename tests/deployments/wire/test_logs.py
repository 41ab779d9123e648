"""What the project logs reaches whatever handlers Serve's logger has, at Serve's level."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from apportion.deployments.wire.logs import PROJECT, SERVE, join, log_to_serve


@pytest.fixture
def serve_file(tmp_path: Path) -> Iterator[Path]:
    """A file that Serve's logger writes to, attached after the project's lines were sent there."""
    serve, project = logging.getLogger(SERVE), logging.getLogger(PROJECT)
    before = serve.level, list(serve.handlers), project.level, list(project.handlers)
    join(project)
    join(project)
    handler = logging.FileHandler(tmp_path / "serve.log")
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    serve.handlers = [handler]
    serve.setLevel(logging.INFO)
    yield tmp_path / "serve.log"
    handler.close()
    serve.level, serve.handlers, project.level, project.handlers = before
    logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]  # levels were set past `setLevel`


def test_a_line_is_written_once_with_the_name_of_its_module(serve_file: Path) -> None:
    logging.getLogger("apportion.router.batch.queueing.queue").info("%d wait", 3)
    assert serve_file.read_text() == "INFO apportion.router.batch.queueing.queue 3 wait\n"


def test_outside_of_a_replica_the_program_decides_where_lines_go() -> None:
    before = list(logging.getLogger(PROJECT).handlers)
    log_to_serve()
    assert logging.getLogger(PROJECT).handlers == before


def test_serves_level_decides_and_may_change(serve_file: Path) -> None:
    logger = logging.getLogger("apportion.deployments.control.router")
    logger.debug("not yet")
    logging.getLogger(SERVE).setLevel(logging.DEBUG)
    logger.debug("now")
    assert serve_file.read_text() == "DEBUG apportion.deployments.control.router now\n"
