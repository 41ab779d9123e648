"""A configuration's keys, and the limits that name them, before it is deployed."""

from __future__ import annotations

from apportion.deployments.config.reader import ReadConfig
from apportion.deployments.keys.keyring import Keyring
from apportion.router.errors import ConfigurationError


def check_keys(config: ReadConfig) -> None:
    """Raises: ConfigurationError: the keys are wrong, or a limit is of a key that is not there."""
    keyring = Keyring.of(config.service)
    wrong = None if keyring is None else keyring.unknown(config.limits)
    if wrong is not None:
        raise ConfigurationError(f"{config.file.path}: {wrong}")
