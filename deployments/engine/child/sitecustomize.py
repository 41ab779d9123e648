"""Runs at the start of an engine's child processes, where PyTorch's companions do not fit: see `torch_companions`."""

import sys

for name in ("torchvision", "torchaudio", "torchcodec"):
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]
