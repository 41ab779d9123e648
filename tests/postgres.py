"""A PostgreSQL of Debian's package, for tests: a cluster in a folder of its own, on a socket, without a port."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = "lib/postgresql/*/bin"


def server_binaries() -> Path | None:
    """The folder of the newest installed server's programs."""
    found = sorted(Path("/usr").glob(f"{BINARIES}/pg_ctl"), key=lambda file: int(file.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of an empty database while the context lasts."""
    binaries = server_binaries()
    assert binaries is not None
    data, log = folder / "data", folder / "log"
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if as_user:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")

    def run(program: str, *arguments: str) -> None:
        subprocess.run([*as_user, str(binaries / program), *arguments], check=True, capture_output=True, cwd=folder)

    run("initdb", "-D", str(data), "-U", "apportion", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    run("pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "start")
    try:
        run("createdb", "-h", str(folder), "-U", "apportion", "budget")
        yield f"postgresql+psycopg://apportion@/budget?host={folder}"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
