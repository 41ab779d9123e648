from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.config.bulk import window_s
from apportion.router.errors import ConfigurationError
from tests.deployments.local_router import configuration


def config(bulk: dict[str, Any], **sections: Any) -> Any:
    return configuration(None, bulk=bulk, **sections)


@pytest.mark.parametrize(
    ("bulk", "said"),
    [
        ({"storage": "bulk"}, "relative"),
        ({"storage": "ftp://x/y"}, "no store ftp"),
        ({"storage": "s3://bucket/folder"}, "add a `budget` section"),
        ({"max_window": "1d"}, "no window of time"),
        ({"max_window": "0h"}, "no window of time"),
        ({"reserve": {"owl": 3}}, "no model of this service"),
        ({"reserves": 1}, "unknown field"),
    ],
)
def test_what_cannot_work_is_refused(bulk: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        config(bulk)


def test_files_lie_where_they_are_said_to_and_else_with_the_users_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = config({"storage": str(tmp_path)})
    assert said.bulk.place == str(tmp_path)
    assert said.bulk.database_url(said.budget) == f"sqlite:///{tmp_path}/jobs.db"

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert config({}).bulk.place == str(tmp_path / "data/apportion/bulk")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config({}).bulk.place == str(tmp_path / ".local/share/apportion/bulk")


def test_the_ledgers_database_remembers_jobs_where_there_is_one() -> None:
    found = config({"storage": "s3://bucket/folder"}, budget={"database": "postgresql+psycopg://u@h/n"})

    assert found.bulk.folder is None
    assert found.bulk.database_url(found.budget) == "postgresql+psycopg://u@h/n"


def test_windows_are_minutes_or_hours() -> None:
    assert [window_s(text) for text in ("1m", "90m", "24h")] == [60, 5400, 86_400]
    for wrong in ("", "24", "h", "-1h", "1.5h", "24H", "٣h", "1٣h", "1h ", "9999999h"):
        with pytest.raises(ValueError, match="write minutes or hours"):
            window_s(wrong)
