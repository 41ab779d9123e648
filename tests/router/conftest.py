from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.postgres import postgres, server_binaries


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    if server_binaries() is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    # A socket's path has room for some hundred characters, and the server's own user must reach it.
    with TemporaryDirectory(prefix="apportion-pg-") as folder, postgres(Path(folder)) as url:
        yield url
