"""Who asks for a job's rows: its owner, with what the owner was allowed when the job was made.

Whether text may leave for models from outside is asked anew for each row: that may have been withdrawn.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from apportion.deployments.config.keys import Permissions
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.keys.caller import Caller
from apportion.deployments.keys.keyring import Keyring
from apportion.deployments.keys.outside import Outside
from apportion.router.budget import Job as JobMoney
from apportion.router.errors import AuthenticationError
from apportion.router.jobs.records import Job


@dataclass(frozen=True)
class JobCaller:
    """The owner of a job.

    Args:
        granted: what the owner may do.
        keyring: None: nobody has a key.
    """

    granted: Caller
    keyring: Keyring | None
    outside: Outside

    def asks(self) -> Caller:
        """Raises: AuthenticationError: the owner's key is revoked."""
        if self.keyring is None:
            return self.granted
        entry = self.keyring.keys.by_name.get(self.granted.account.key or "")
        if entry is None:
            raise AuthenticationError("the API key of this batch is not known here any more")
        permissions = self.granted.permissions.model_copy(update={"external": entry.external})
        return self.outside.kept_in(dataclasses.replace(self.granted, permissions=permissions, inside=None))


class JobCallers:
    """Knows whose keys are still there."""

    def __init__(self, config: ServiceConfig) -> None:
        self._keyring, self._outside = Keyring.of(config), Outside.of(config)
        self._stop_watching = None if self._keyring is None else self._keyring.watch()

    def close(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()

    def of(self, job: Job, budget_nano: int | None) -> JobCaller:
        """Who asks for the job's rows.

        Args:
            budget_nano: that they may cost; None: any.
        """
        may = {name: value for name, value in job.caller.items() if name in Permissions.model_fields}
        account = job.owner._replace(job=JobMoney(job.id, budget_nano))
        granted = self._outside.kept_in(Caller(account, Permissions.model_validate(may)))
        return JobCaller(granted, self._keyring, self._outside)
