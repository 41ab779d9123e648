"""A configuration's keys, and the limits that name them, before it is deployed."""

from __future__ import annotations

from apportion.deployments.config.reader import ReadConfig
from apportion.deployments.keys.keyring import Keyring
from apportion.deployments.keys.outside import Outside
from apportion.router.errors import ConfigurationError


def check_keys(config: ReadConfig) -> None:
    """Raises: ConfigurationError: the keys are wrong, one can use nothing, or a limit is of who is not there."""
    keyring, outside = Keyring.of(config.service), Outside.of(config.service)
    if keyring is None:
        return
    for entry in keyring.keys.by_name.values():
        if not (outside.may_leave(entry, entry.tenant) or outside.inside(entry)):
            raise ConfigurationError(
                f"{config.file.path}: key {entry.name} may use models from outside alone, and its text may not leave; "
                "set `external: true` in its entry, or name other models"
            )
    wrong = keyring.unknown(config.limits) or keyring.uncounted(config.concurrency_limits)
    if wrong is not None:
        raise ConfigurationError(f"{config.file.path}: {wrong}")
