"""A stop leaves no token, no socket and no semaphore; what others have in use stays."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from apportion.deployments.cluster.run_folder import (
    SEMAPHORES,
    SHARED_MEMORY,
    own_folder,
    remove_semaphores,
    run_folder,
    token_file,
)
from apportion.router.errors import ConfigurationError

ENVIRONMENT = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "VLLM_RPC_BASE_PATH")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is as before after the test
        monkeypatch.delenv(name)


def test_the_folder_is_private_and_goes_with_all_that_is_in_it() -> None:
    with own_folder():
        assert run_folder().stat().st_mode & 0o777 == 0o700
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token_file())
        assert len(token_file().read_text()) == 64
        (Path(os.environ["VLLM_RPC_BASE_PATH"]) / "socket").touch()
    assert not run_folder().exists()
    assert not {*ENVIRONMENT} & os.environ.keys(), "nothing names what is gone"


def test_what_a_killed_service_left_is_replaced() -> None:
    run_folder().mkdir()
    (run_folder() / "socket").touch()
    with own_folder():
        assert os.listdir(run_folder()) == ["auth_token"]


def test_the_users_own_token_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with own_folder():
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    run_folder().symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="remove it, or name another TMPDIR"), own_folder():
        pass


def semaphores(pid: int) -> set[Path]:
    """Those that a process has in use; joblib, where it was imported, gives them other names than multiprocessing."""
    inodes = {line.split()[4] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    found = set()
    for file in (file for pattern in SEMAPHORES for file in SHARED_MEMORY.glob(pattern)):
        with contextlib.suppress(FileNotFoundError):  # of a process that runs beside this one
            if str(file.stat().st_ino) in inodes:
                found.add(file)
    return found


def test_semaphores_of_killed_processes_are_removed_and_those_in_use_stay() -> None:
    since_s = time.time() - 1
    before = semaphores(os.getpid())
    in_use = multiprocessing.get_context("spawn").Lock()
    kept = semaphores(os.getpid()) - before
    code = (
        "import multiprocessing, time\n"
        "lock = multiprocessing.get_context('spawn').Lock()\n"
        "print('made', flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with process:
        left = semaphores(process.pid)
        for child in psutil.Process(process.pid).children():
            child.send_signal(signal.SIGKILL)  # Python's resource tracker, which would remove it
        process.kill()
    assert (len(kept), len(left)) == (1, 1)
    assert all(file.exists() for file in left)
    remove_semaphores(since_s)
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in kept)
    with in_use:
        pass
