from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.package.installation import Installed, build, copy_sources


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copy_sources(tmp_path_factory.mktemp("sources")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    # A socket's path has room for some hundred characters.
    with TemporaryDirectory(prefix="apportion-", ignore_cleanup_errors=True) as temporary:
        yield Installed.make(wheel, tmp_path_factory.mktemp("installed"), Path(temporary))
