"""What API keys bring to the router: their rates, and their budgets."""

from __future__ import annotations

import time

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.keys.keyring import Keyring
from apportion.router.batch.rate import RateLimiter
from apportion.router.batch.spending import Spending
from apportion.router.budget import Account
from apportion.router.errors import RateLimitError


class KeyRates:
    """Holds keys to their rates, and hands their budgets to the ledger.

    Args:
        spending: gets the keys' limits on money.
    """

    def __init__(self, config: ServiceConfig, spending: Spending) -> None:
        self._keyring = None if config.keys is None else Keyring(config.keys, config.names)
        self._spending = spending
        self._rates = RateLimiter({})
        self._take()

    async def refresh(self) -> None:
        """Takes up what has changed in the keys' file."""
        if self._keyring is not None and self._keyring.refresh():
            self._take()

    def check(self, account: Account) -> None:
        """Counts a request. Raises: RateLimitError: its key asks too often."""
        wait_s = self._rates.take(account.key, time.monotonic())
        if wait_s is not None:
            most = self._rates.per_minute[account.key or ""]
            raise RateLimitError(
                f"this API key may ask {most:g} times a minute; try again in {wait_s:.1f} s", retry_after_s=wait_s
            )

    def _take(self) -> None:
        """From the next request on."""
        if self._keyring is not None:
            self._spending.set_key_limits(self._keyring.limits())
            self._rates.per_minute = self._keyring.rates()
