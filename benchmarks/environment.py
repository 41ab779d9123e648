"""Virtual environments of their own, for what cannot share ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSTALL_TIMEOUT_S = 420


def environment(folder: Path, requirement: str) -> Path:
    """The bin/ folder of an environment in `folder` with the requirement installed, made at the first call.

    Raises:
        RuntimeError: it cannot be installed; holds the end of pip's words.
        subprocess.SubprocessError: there can be no environment, or making it takes too long.
    """
    folder = folder.absolute()
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=INSTALL_TIMEOUT_S)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", requirement]
        done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S)
        if done.returncode:
            raise RuntimeError(f"pip install {requirement} failed: {done.stderr.strip()[-300:]}")
        ready.touch()
    return folder / "bin"
