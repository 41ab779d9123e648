"""API keys: whose a request is, which models it may use, and how fast. Knows no key, only hashes of keys."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from apportion.deployments.config.keys import KeyEntry, KeysConfig
from apportion.router.batch.messages import RoutingAsk
from apportion.router.budget import Account, Limit
from apportion.router.checked import mistakes
from apportion.router.errors import AuthenticationError, ConfigurationError, InvalidRequestError, PermissionDeniedError

logger = logging.getLogger(__name__)

MAX_TENANT_CHARS = 128
MAX_KEY_CHARS = 512
_ENTRIES = TypeAdapter(tuple[KeyEntry, ...])


@dataclass(frozen=True)
class Caller:
    """Who asks: the account that pays, the models that it may use (None: all), and whether it may see everything."""

    account: Account = field(default_factory=Account)
    models: tuple[str, ...] | None = None
    operator: bool = False

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def restrict(self, named: str | None, ask: RoutingAsk) -> RoutingAsk:
        """The request's wishes within what its key allows.

        Raises:
            PermissionDeniedError: it names a model that its key may not use, or leaves none that it may.
        """
        if self.models is None:
            return ask
        wanted = (named,) if named is not None else ask.models
        allowed = self.models if wanted is None else tuple(model for model in wanted if self.may_use(model))
        if not allowed:
            raise PermissionDeniedError(
                f"this API key may not use {', '.join(wanted or ())}; it may use {', '.join(self.models)}",
                param="model" if named is not None else "routing.models",
            )
        return ask if named is not None else dataclasses.replace(ask, models=allowed)


ANYBODY = Caller(operator=True)  # where there are no keys the service is open


class Keyring:
    """The keys of a configuration; `refresh` takes up what has changed in their file.

    Raises:
        ConfigurationError: file or variable is missing or wrong, or a key names a model that is not served.
    """

    def __init__(self, config: KeysConfig, models: tuple[str, ...]) -> None:
        self._config = config
        self._models = models
        # Keys are looked up by a keyed hash of their hash, so the time of a look-up tells nothing about a stored one.
        self._secret = secrets.token_bytes(32)
        self._entries: dict[bytes, KeyEntry] = {}
        self._version: tuple[int, int] | None = None
        self._load()

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Whose request it is, by its `Authorization: Bearer KEY`.

        Raises:
            AuthenticationError: there is no key, or none that is known.
            InvalidRequestError: the tenant's name is too long or not printable.
        """
        scheme, _, key = headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise AuthenticationError("this service needs an API key; send it as `Authorization: Bearer KEY`")
        digest = hashlib.sha256(key[:MAX_KEY_CHARS].encode(errors="replace")).hexdigest()
        entry = self._entries.get(self._mark(digest))
        if entry is None or not hmac.compare_digest(entry.sha256, digest) or len(key) > MAX_KEY_CHARS:
            raise AuthenticationError("this API key is not known here; check it, or ask for a new one")
        tenant = entry.tenant or _tenant(headers.get(self._config.tenant_header), self._config.tenant_header)
        return Caller(Account(entry.name, tenant), entry.models, entry.operator)

    def limits(self) -> tuple[Limit, ...]:
        """Budgets that keys bring."""
        return tuple(limit for entry in self._entries.values() for limit in entry.budget_limits())

    def rates(self) -> dict[str, float]:
        """Requests a minute of the keys that have a limit, by name."""
        return {e.name: e.requests_per_minute for e in self._entries.values() if e.requests_per_minute is not None}

    def refresh(self) -> bool:
        """Reads the file again if it has changed; True if so. A wrong one is logged and the old keys stay."""
        if self._config.file is None:
            return False
        try:
            if _version(self._config.file) == self._version:
                return False
            self._load()
        except (OSError, ConfigurationError) as error:
            logger.error("the API keys stay as they were: %s", error)
            return False
        logger.info("%d API keys are known now", len(self._entries))
        return True

    def _load(self) -> None:
        source, text = self._read()
        try:
            content = yaml.safe_load(text)
            if content is None:  # an editor that is about to write it has emptied it first
                raise ConfigurationError(f"{source} is empty; write [] for no keys at all")
            entries = _ENTRIES.validate_python(content)
        except yaml.YAMLError:
            raise ConfigurationError(f"{source} is not valid YAML") from None
        except ValidationError as error:
            # What the fields hold is not shown: it may be a key.
            found = "; ".join(map(str, mistakes(error, show_values=False)))
            raise ConfigurationError(f"{source}: {found}") from None
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names) or len({entry.sha256 for entry in entries}) < len(names):
            raise ConfigurationError(f"{source}: two keys have the same name or the same hash; every key needs its own")
        for entry in entries:
            unknown = set(entry.models or ()) - set(self._models)
            if unknown:
                raise ConfigurationError(f"{source}: key {entry.name}: {sorted(unknown)} are no models of this service")
        self._entries = {self._mark(entry.sha256): entry for entry in entries}

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


def anonymous(headers: Mapping[str, str], tenant_header: str) -> Caller:
    """The caller where no keys are asked for."""
    tenant = _tenant(headers.get(tenant_header), tenant_header)
    return ANYBODY if tenant is None else dataclasses.replace(ANYBODY, account=Account(tenant=tenant))


def new_key() -> tuple[str, str]:
    """A key for its user and its hash for the file."""
    key = f"ap-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def _tenant(name: str | None, header: str) -> str | None:
    if not name:
        return None
    if len(name) > MAX_TENANT_CHARS or not name.isprintable():
        raise InvalidRequestError(f"{header}: give at most {MAX_TENANT_CHARS} printable characters")
    return name


def _version(file: str) -> tuple[int, int]:
    found = Path(file).stat()
    return found.st_mtime_ns, found.st_size
