"""API keys as their file holds them, read again when it changes. Knows no key, only hashes of keys."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from apportion.allocation.yaml_files import TwiceError, loaded
from apportion.deployments.config.budget import LimitConfig
from apportion.deployments.config.concurrency import ConcurrencyLimitConfig
from apportion.deployments.config.keys import KeyEntry, KeysConfig, Permissions
from apportion.deployments.config.service import ServiceConfig
from apportion.router.budget import UNNAMED, Limit, Scope
from apportion.router.checked import mistakes, nearest
from apportion.router.errors import AuthenticationError, ConfigurationError

logger = logging.getLogger(__name__)

MAX_KEY_CHARS = 512
WATCH_PERIOD_S = 1.0
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it is there, is ten times as fast


@dataclass(frozen=True)
class Keys:
    """The keys of one version of the file, by name and by mark; and the rates and budgets that they bring."""

    by_name: Mapping[str, KeyEntry] = field(default_factory=dict)
    by_mark: Mapping[bytes, KeyEntry] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()


class Keyring:
    """The keys of a configuration; `refresh` takes up what has changed in their file.

    Args:
        models: that are served.
        with_budget: whether limits of keys are kept, by a `budget` section.

    Raises:
        ConfigurationError: file or variable is missing or wrong, a key names a model that is not served, or brings a
            limit that nobody would keep.
    """

    def __init__(self, config: KeysConfig, models: tuple[str, ...], *, with_budget: bool) -> None:
        self._config = config
        self._models = models
        self._with_budget = with_budget
        # Keys are looked up by a keyed hash of their hash, so the time of a look-up tells nothing about a stored one.
        self._secret = secrets.token_bytes(32)
        self._version: tuple[int, int] | None = None
        self.error: str | None = None
        self.keys = self._load()

    @classmethod
    def of(cls, config: ServiceConfig) -> Keyring | None:
        """The keyring of a service; None where it asks for no keys. Raises ConfigurationError as the class does."""
        if config.keys is None:
            return None
        return cls(config.keys, config.nameable, with_budget=config.budget is not None)

    def entry(self, headers: Mapping[str, str]) -> KeyEntry:
        """The key of a request, by its `Authorization: Bearer KEY`, or `api-key` or `x-api-key`.

        Raises:
            AuthenticationError: there is no key, or none that is known.
        """
        key = _key(headers)
        if not key:
            raise AuthenticationError("this service needs an API key; send it as `Authorization: Bearer KEY`")
        digest = hashlib.sha256(key[:MAX_KEY_CHARS].encode(errors="replace")).hexdigest()
        entry = self.keys.by_mark.get(self._mark(digest))
        if entry is None or not hmac.compare_digest(entry.sha256, digest) or len(key) > MAX_KEY_CHARS:
            raise AuthenticationError("this API key is not known here; check it, or ask for a new one")
        return entry

    def unknown(self, limits: Iterable[LimitConfig]) -> str | None:
        """Says which limit is of a key that is not there, and so limits nobody; None: all are there."""
        for limit in limits:
            if limit.scope is Scope.key and limit.name is not None and limit.name not in self.keys.by_name:
                return f"limits: there is no key {limit.name!r}{nearest(limit.name, self.keys.by_name)}"
        return None

    def uncounted(self, limits: Iterable[ConcurrencyLimitConfig]) -> str | None:
        """Says which limit on what is in flight is of a key or a tenant that is not there; None: all are there."""
        entries = self.keys.by_name.values()
        tenants = None if any(entry.tenant_header for entry in entries) else {one.tenant or UNNAMED for one in entries}
        for limit in limits:
            for kind, names, known in (("key", limit.keys, self.keys.by_name), ("tenant", limit.tenants, tenants)):
                for name in names or ():
                    if known is not None and name not in known:
                        return f"concurrency_limits.{limit.name}: there is no {kind} {name!r}{nearest(name, known)}"
        return None

    def refresh(self) -> bool:
        """Reads the file again if it has changed; True if so. A wrong one is logged and the old keys stay.

        Takes a moment where there are thousands of keys: not for an event loop.
        """
        if self._config.file is None:
            return False
        try:
            if _version(self._config.file) == self._version:
                return False
            self.keys = self._load()
        except (OSError, ConfigurationError) as error:
            self.error = f"the API keys stay as they were: {error}"
            logger.error("%s", self.error)
            return False
        self.error = None
        logger.info("%d API keys are known now", len(self.keys.by_name))
        return True

    def watch(self, period_s: float = WATCH_PERIOD_S) -> Callable[[], None]:
        """Refreshes in a thread of its own until what it returns is called; no mistake in it ends the thread."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(period_s):
                try:
                    self.refresh()
                except Exception as error:  # its class only: what it says may quote the file
                    self.error = f"the API keys stay as they were: {type(error).__name__}"
                    logger.error("%s", self.error)

        if self._config.file is not None:
            threading.Thread(target=look, name="keys", daemon=True).start()
        return ended.set

    def _load(self) -> Keys:
        source, text = self._read()
        try:
            _, content = loaded(text, _Loader)
        except TwiceError as error:  # the line alone, since what is there may be a key
            raise ConfigurationError(f"{source}, line {error.line}: a field stands twice; keep one") from None
        except yaml.YAMLError:
            raise ConfigurationError(f"{source} is not valid YAML") from None
        if content is None:  # an editor that is about to write it has emptied it first
            raise ConfigurationError(f"{source} is empty; write [] for no keys at all")
        if not isinstance(content, list):
            raise ConfigurationError(f"{source} is no list of keys; write `- name: ...` for each")
        entries = [_entry(number, one, source) for number, one in enumerate(content)]
        by_name = {entry.name: entry for entry in entries}
        by_mark = {self._mark(entry.sha256): entry for entry in entries}
        if len(by_name) < len(entries) or len(by_mark) < len(entries):
            raise ConfigurationError(f"{source}: two keys have the same name or the same hash; every key needs its own")
        for entry in entries:
            self._check(entry, source)
        limits = tuple(limit for entry in entries for limit in entry.budget_limits())
        return Keys(by_name, by_mark, rates_of(by_name), limits)

    def _check(self, entry: KeyEntry, source: str) -> None:
        try:
            entry.check_models(self._models)
        except ValueError as error:
            raise ConfigurationError(f"{source}: key {entry.name}: {error}") from error
        if entry.limits and not self._with_budget:
            raise ConfigurationError(
                f"{source}: key {entry.name}: limits need a `budget` section with a database; add it, or remove them"
            )

    def _read(self) -> tuple[str, str]:
        if self._config.file is None:
            name = self._config.env or ""
            if name not in os.environ:
                raise ConfigurationError(f"keys.env: the environment has no variable {name}")
            return f"keys.env {name}", os.environ[name]
        try:
            self._version = _version(self._config.file)
            return self._config.file, Path(self._config.file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigurationError(f"keys.file {self._config.file} is not UTF-8; save it so") from None
        except OSError as error:
            raise ConfigurationError(f"keys.file {self._config.file}: {error.strerror}") from None

    def _mark(self, digest: str) -> bytes:
        return hmac.digest(self._secret, digest.encode(), "sha256")


def _entry(number: int, content: object, source: str) -> KeyEntry:
    """One key of the list. By itself: a check of thousands in one call would hold up the other threads."""
    try:
        return KeyEntry.model_validate(content)
    except ValidationError as error:
        # What the fields hold is not shown: it may be a key.
        found = "; ".join(map(str, mistakes(error, prefix=(number,), show_values=False)))
        raise ConfigurationError(f"{source}: {found}") from None


def rates_of(callers: Mapping[str, Permissions]) -> dict[str, float]:
    """Requests a minute of the callers that have a limit, by name."""
    return {name: may.requests_per_minute for name, may in callers.items() if may.requests_per_minute is not None}


def new_key() -> tuple[str, str]:
    """A key for its user and its hash for the file."""
    key = f"ap-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def _key(headers: Mapping[str, str]) -> str:
    """The key that came with a request; empty: none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return (headers.get("api-key") or headers.get("x-api-key") or "").strip()


def _version(file: str) -> tuple[int, int]:
    found = Path(file).stat()
    return found.st_mtime_ns, found.st_size
