"""How a sentence-transformers folder pools token states into one vector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apportion.router.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling:
    """Mode (`mean`, `cls`, `max` or `lasttoken`) and whether vectors are scaled to length one."""

    mode: str = "mean"
    normalise: bool = True

    @classmethod
    def read(cls, folder: Path) -> Pooling:
        """As modules.json says; mean and normalised where the folder has none (a plain Hugging Face model).

        Raises ConfigurationError for modules or modes that are not supported.
        """
        modules_file = folder / "modules.json"
        if not modules_file.exists():
            return cls()
        modules = json.loads(modules_file.read_text())
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
        if unknown or "Pooling" not in kinds:
            raise ConfigurationError(
                f"encoder {folder}: modules {kinds} are not supported, take an encoder made of Transformer, Pooling "
                "and optionally Normalize"
            )
        config = json.loads((folder / modules[kinds.index("Pooling")]["path"] / "config.json").read_text())
        return cls(_mode(config, folder), "Normalize" in kinds)

    def pool(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Vectors `(n, d)` in float32 of token states `(n, t, d)`; `mask` `(n, t)` is None without
        padding.
        """
        import torch

        states = states.float()
        if self.mode == "cls":
            pooled = states[:, 0]
        elif self.mode == "lasttoken":
            last = mask.sum(1) - 1 if mask is not None else torch.full_like(states[:, 0, 0], states.shape[1] - 1)
            pooled = states[torch.arange(len(states), device=states.device), last.long()]
        elif self.mode == "max":
            kept = states if mask is None else states.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf)
            pooled = kept.amax(1)
        elif mask is None:
            pooled = states.mean(1)
        else:
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(pooled, dim=1) if self.normalise else pooled


def _mode(config: dict[str, Any], folder: Path) -> str:
    modes = [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    named = config.get("pooling_mode")
    if isinstance(named, str):
        modes = [named]
    if len(modes) != 1 or modes[0] not in _FLAGS.values():
        raise ConfigurationError(
            f"encoder {folder}: its pooling {modes or 'configuration'} is not supported, use exactly one of "
            f"{', '.join(_FLAGS.values())}"
        )
    return modes[0]
