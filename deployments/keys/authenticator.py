"""Lets callers in: with keys where the service asks for them, and with the tenant that they name."""

from __future__ import annotations

import time
from collections.abc import Mapping

from apportion.deployments.config.keys import KeysConfig
from apportion.deployments.keys.keyring import Caller, Keyring, anonymous
from apportion.router.errors import ApportionError

TENANT_HEADER = "x-router-tenant"
REFRESH_S = 1.0


class Authenticator:
    """Checks who asks, before the body is read.

    Args:
        config: None: anyone may come in.
        models: that are served.
    """

    def __init__(self, config: KeysConfig | None, models: tuple[str, ...]) -> None:
        self._keyring = None if config is None else Keyring(config, models)
        self._looked_s = time.monotonic()

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """Raises: AuthenticationError: no key, or one that is not known; InvalidRequestError: no tenant's name."""
        if self._keyring is None:
            return anonymous(headers, TENANT_HEADER)
        now_s = time.monotonic()
        if now_s - self._looked_s > REFRESH_S:
            self._looked_s = now_s
            self._keyring.refresh()
        return self._keyring.caller(headers)

    def is_operator(self, headers: Mapping[str, str]) -> bool:
        """Whether who asks may see the whole service; never raises, since whether it works is everybody's to know."""
        try:
            return self.admit(headers).operator
        except ApportionError:
            return False
