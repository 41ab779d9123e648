"""The folder of the service that runs on this machine: its token and its engines' sockets, removed when it stops."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from apportion.router.errors import ConfigurationError

SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
SHARED_MEMORY = Path("/dev/shm")
SEMAPHORES = ("sem.mp-*", "sem.loky-*")  # of multiprocessing and of joblib


def run_folder() -> Path:
    """Where it is for this user: one service runs on a machine at a time, since its dashboard has one port."""
    return Path(tempfile.gettempdir()) / f"apportion-{os.getuid()}"


def token_file() -> Path:
    return run_folder() / "auth_token"


def use_token() -> None:
    """Let this process reach the service that runs here; a token that the user has named stays."""
    if token_file().is_file() and not any(name in os.environ for name in TOKEN_VARIABLES):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file())


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    """The folder while the context lasts, with a token in it; Ray and the engines are told of it by the environment.

    Raises:
        ConfigurationError: somebody else has made a folder of that name.
    """
    started_s = time.time()
    folder = run_folder()
    shutil.rmtree(folder, ignore_errors=True)  # of a service that was killed
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}; remove it, or name another TMPDIR") from error
    token_file().write_text(_token())
    before = dict(os.environ)
    use_token()
    os.environ.setdefault(SOCKETS_VARIABLE, str(folder))
    try:
        yield
    finally:
        for name in {*TOKEN_VARIABLES, SOCKETS_VARIABLE} - before.keys():
            os.environ.pop(name, None)  # they name what is gone now
        shutil.rmtree(folder, ignore_errors=True)
        remove_semaphores(started_s)


@functools.cache
def _token() -> str:
    """One a process, since Ray reads it once."""
    return secrets.token_hex(32)


def remove_semaphores(since_s: float) -> None:
    """Remove what killed processes left in /dev/shm: this user's, newer than `since_s`, and mapped by no process.

    Python's multiprocessing leaves its clean-up to a process that is killed with the engine.
    """
    candidates = {file.stat().st_ino: file for file in _semaphores(since_s)}
    in_use = _mapped() if candidates else set()
    for inode, file in candidates.items():
        if inode not in in_use:
            file.unlink(missing_ok=True)


def _semaphores(since_s: float) -> Iterator[Path]:
    for pattern in SEMAPHORES:
        for file in SHARED_MEMORY.glob(pattern):
            with contextlib.suppress(OSError):
                status = file.stat()
                if status.st_uid == os.getuid() and status.st_mtime >= since_s:
                    yield file


def _mapped() -> set[int]:
    """Inodes of the semaphores that processes have in use, as far as this user may see.

    The names in a process's map are those that the C library gave them before it moved them to their place.
    """
    found: set[int] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            found.update(int(line.split()[4]) for line in maps.read_text().splitlines() if "/dev/shm/sem." in line)
    return found
