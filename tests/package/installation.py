"""The wheel of this checkout, and an environment that it is installed in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

# Ray's commands, which run the environment's Python here, not the one that Ray was installed for.
COMMANDS = {"ray": "ray.scripts.scripts import main", "serve": "ray.serve.scripts import cli as main"}
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "router", "allocation", "deployments")


def copy_sources(folder: Path) -> Path:
    """What a wheel is made of, without what earlier builds left in the checkout."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(source: Path, out: Path) -> Path:
    """The wheel of a folder or of a source archive."""
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(out), str(source)], check=True)
    return next(out.glob("apportion-*.whl"))


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and folders of its own: a home, an empty one to work in, a temporary one."""

    environment: Path
    home: Path
    folder: Path
    temporary: Path

    @classmethod
    def make(cls, wheel: Path, root: Path, temporary: Path) -> Installed:
        """Everything but the project comes from the environment that the tests run in."""
        found = cls(root / "environment", root / "home", root / "folder", temporary)
        venv.create(found.environment, symlinks=True)
        found.home.mkdir()
        found.folder.mkdir()
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = found.environment / "lib" / version / "site-packages"
        # Only the folder: a .pth file in it, such as that of an editable installation, is not followed.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for name, module in COMMANDS.items():
            command = found.environment / "bin" / name
            command.write_text(f"#!{found.environment}/bin/python\nfrom {module}\nmain()\n")
            command.chmod(0o755)
        python = str(found.environment / "bin" / "python")
        options = ("--no-deps", "--no-index", "--quiet", "--ignore-installed")
        subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)], check=True)
        return found

    @property
    def variables(self) -> dict[str, str]:
        """The tests' environment without what they have set for Ray and Python."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "VLLM_"))}
        tools = f"{self.environment / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}"
        return kept | {"HOME": str(self.home), "PATH": tools, "TMPDIR": str(self.temporary)}

    def run(self, *command: str, timeout_s: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in the folder."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables | variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
