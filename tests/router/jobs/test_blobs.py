import contextlib
from pathlib import Path

import pytest

from apportion.router.errors import ConfigurationError
from apportion.router.jobs.blobs import Blobs, FolderBlobs, ObjectBlobs, open_blobs
from tests.router.jobs.stores import blobs_of


@pytest.fixture(params=["folder", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    (tmp_path / "files").mkdir()
    return blobs_of(request.param, tmp_path)


def read(blobs: Blobs, path: str) -> bytes:
    with blobs.reading(path) as stream:
        return stream.read()


def test_a_file_is_there_once_it_is_whole(blobs: Blobs) -> None:
    with blobs.writing("files/a") as stream:
        stream.write(b"12")
        assert "files/a" not in [blob.path for blob in blobs.list("files")]
        stream.write(b"34")

    assert [(blob.path, blob.size) for blob in blobs.list("files")] == [("files/a", 4)]
    with blobs.reading("files/a") as stream:
        stream.seek(2)
        assert stream.read(1) == b"3"


def test_nothing_is_left_of_a_file_that_was_broken_off(blobs: Blobs) -> None:
    with contextlib.suppress(KeyboardInterrupt), blobs.writing("files/a") as stream:
        stream.write(b"12")
        raise KeyboardInterrupt

    assert blobs.list("files") == []


def test_files_and_folders_are_removed(blobs: Blobs) -> None:
    for path in ("files/a", "files/b"):
        blobs.append(path, path.encode())
    assert read(blobs, "files/b") == b"files/b"

    blobs.delete("files/a")
    blobs.delete("files/a")
    blobs.delete("files")

    assert blobs.list("files") == blobs.list("nowhere") == []
    with pytest.raises(FileNotFoundError):
        read(blobs, "files/a")


def test_a_store_is_opened_by_its_uri(tmp_path: Path) -> None:
    assert open_blobs(str(tmp_path / "new")) == open_blobs(f"file://{tmp_path}/new") == FolderBlobs(tmp_path / "new")
    assert isinstance(open_blobs("s3://bucket/folder?region=eu-west-1"), ObjectBlobs)
    with pytest.raises(ConfigurationError, match=r"bulk\.storage"):
        open_blobs("nonsense://x")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="name another folder"):
        open_blobs(str(tmp_path / "file"))
