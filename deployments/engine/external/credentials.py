"""What a provider knows this service by: read from the environment or a file, sent to nobody else, shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from apportion.deployments.config.external import ENV, ExternalConfig
from apportion.router.errors import ConfigurationError

HIDDEN = "[hidden]"
_SHORTEST = 6  # characters of a secret that is looked for in texts; shorter ones are words


class Credentials:
    """The key of one account and the headers beside it.

    Raises:
        ConfigurationError: a variable is not set, or the key's file cannot be read.
    """

    def __init__(self, external: ExternalConfig) -> None:
        self._key = None if external.api_key_env is None else _variable(external.api_key_env)
        self._file = None if external.api_key_file is None else _KeyFile(external.api_key_file)
        self._headers: dict[str, str] = {}
        self._secrets: set[str] = set()
        for name, value in external.headers.items():
            if value.startswith(ENV):
                value = _variable(value.removeprefix(ENV))
                self._secrets |= {value, value.rpartition(" ")[2]}
            self._headers[name.lower()] = value

    def headers(self) -> dict[str, str]:
        """Of a request that is sent now."""
        key = self._key if self._file is None else self._file.read()
        if key is None:
            return dict(self._headers)
        self._secrets.add(key)
        return {"authorization": f"Bearer {key}", **self._headers}

    def hide(self, text: str) -> str:
        """The text without anything that is secret."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, HIDDEN)
        return text


class _KeyFile:
    """Reads again when the file has changed; one that is being replaced leaves the last key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = 0
        self._key = ""
        if not self.read():
            raise ConfigurationError(f"api_key_file: {path} cannot be read here or is empty; write the key into it")

    def read(self) -> str:
        try:
            changed_at = self._path.stat().st_mtime_ns
            if changed_at != self._read_at:
                self._key = self._path.read_text(encoding="utf-8").strip() or self._key
                self._read_at = changed_at
        except (OSError, UnicodeDecodeError):
            pass
        return self._key


def _variable(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"the environment variable {name} is not set where this replica runs; set it for Ray")
    return value
