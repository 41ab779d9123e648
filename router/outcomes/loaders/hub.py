"""Data sets given by a path or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apportion.router.errors import OutcomesTableError
from apportion.router.hub import out_of_reach


def local_folder(where: str, patterns: Sequence[str]) -> Path:
    """The folder (or file) at `where`, or the hub data set of that id, of which `patterns` are downloaded.

    Raises OutcomesTableError when there is neither.
    """
    path = Path(where).expanduser()
    if path.exists():
        return path
    if path.is_absolute() or where.count("/") != 1:
        raise OutcomesTableError(f"nothing at {where}: give a file, a folder, or a hub id such as owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                where, repo_type="dataset", allow_patterns=list(patterns), local_files_only=out_of_reach()
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise OutcomesTableError(
            f"{where!r} is no path here and could not be fetched from the hub ({type(error).__name__}): "
            "check the name and the network, or give a local copy"
        ) from error


def files_of(path: Path, *patterns: str) -> list[Path]:
    """The file itself, or a folder's files of these patterns in order; raises OutcomesTableError for none."""
    if path.is_file():
        return [path]
    found = sorted(file for pattern in patterns for file in path.rglob(pattern))
    if not found:
        raise OutcomesTableError(f"{path} holds no {' or '.join(patterns)}: give the data set's files")
    return found
