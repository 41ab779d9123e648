"""Lets callers in: with keys where the service asks for them, and with the tenant that they may name."""

from __future__ import annotations

import time
from collections.abc import Mapping

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.keys.caller import Caller, caller_of
from apportion.deployments.keys.keyring import Keyring, rates_of
from apportion.deployments.keys.outside import Outside
from apportion.router.batch.guards.rate import RateLimiter
from apportion.router.budget import UNNAMED
from apportion.router.errors import ApportionError

SLACK = 2.0  # times its rate: requests come to the router later and less evenly than they come here


class Authenticator:
    """Checks who asks, before the body is read.

    Args:
        config: without `keys` anyone may come in, and has the permissions of `anonymous`.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._anonymous = config.anonymous
        self._anonymous_rates = rates_of({UNNAMED: config.anonymous})
        self._outside = Outside.of(config)
        self._keyring = Keyring.of(config)
        self._stop_watching = None if self._keyring is None else self._keyring.watch()
        self._rates, self._feedback = RateLimiter({}, slack=SLACK), RateLimiter({}, slack=SLACK)

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """Whose request it is.

        Raises:
            AuthenticationError: no key, or one that is not known.
            PermissionDeniedError: it names a tenant and may not.
            InvalidRequestError: the tenant's name is too long, not printable, or reserved.
        """
        entry = None if self._keyring is None else self._keyring.entry(headers)
        return self._outside.kept_in(caller_of(entry, self._anonymous, headers))

    def close(self) -> None:
        """No longer looks at the keys' file."""
        if self._stop_watching is not None:
            self._stop_watching()

    def admit_request(self, headers: Mapping[str, str]) -> Caller:
        """As `admit`, for a request that counts: a flood is sent away here, the rest is for the router to count.

        Raises:
            RateLimitError: this ingress alone gets far more from the caller than all together should.
        """
        caller = self.admit(headers)
        self._rates.per_minute = self._anonymous_rates if self._keyring is None else self._keyring.keys.rates
        self._rates.check(caller.account.key or UNNAMED, time.monotonic(), f"{caller.who} may send")
        return caller

    def admit_feedback(self, headers: Mapping[str, str]) -> Caller:
        """As `admit`, for feedback, of which a flood is sent away here too.

        Raises:
            RateLimitError: this ingress alone gets far more from the caller than all together should.
        """
        caller = self.admit(headers)
        name = caller.account.key or UNNAMED
        self._feedback.per_minute = {name: caller.permissions.feedback_per_minute}
        self._feedback.check(name, time.monotonic(), f"{caller.who} may send feedback in")
        return caller

    def is_operator(self, headers: Mapping[str, str]) -> bool:
        """Whether who asks may see the whole service; never raises, since whether it works is everybody's to know."""
        try:
            return self.admit(headers).operator
        except ApportionError:
            return False

    def may_watch(self, headers: Mapping[str, str]) -> bool:
        """Whether who asks may see the console, still."""
        try:
            self.admit(headers).check_console()
        except ApportionError:
            return False
        return True
