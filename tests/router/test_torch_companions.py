"""What was built for CUDA is not found beside a torch that was not, as if it were not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def installed(folder: Path, name: str, version: str) -> None:
    """A package that cannot be imported, with the metadata of that version."""
    (folder / f"{name}.py").write_text("raise RuntimeError('operator does not exist')")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_companions_for_cuda_are_hidden_and_those_for_the_cpu_stay(tmp_path: Path) -> None:
    installed(tmp_path, "torchvision", "0.28.0")
    installed(tmp_path, "torchaudio", "2.13.0+cpu")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from importlib.util import find_spec\n"
        "from apportion.router.torch_companions import hide_misfits\n"
        "hide_misfits()\n"
        "print(find_spec('torchvision'), find_spec('torchaudio').name, find_spec('torchcodec'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "None torchaudio None\n", done.stderr
