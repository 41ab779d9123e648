"""`serve_config.yaml` from its text to the checked configuration; mistakes are named with file, line and field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apportion.allocation.serve_file import APPLICATION, ARGUMENTS, ServeFile
from apportion.deployments.config.budget import LimitConfig
from apportion.deployments.config.concurrency import ConcurrencyLimitConfig
from apportion.deployments.config.routing import LivePolicy
from apportion.deployments.config.service import ServiceConfig, live_policy, live_predictor
from apportion.router.batch.messages import ROUTER
from apportion.router.errors import ConfigurationError

IMPORT_PATH = "apportion.deployments.app:build"
IMPORT_PATHS = {IMPORT_PATH, "deployments.app:build"}  # the second: before the packages were under one name
PREDICTOR = "Predictor"  # the deployment
_PREFIX = re.compile(r"/|/[^{}]*[^{}/]")  # of paths; Serve takes no wildcards in it


@dataclass(frozen=True)
class ReadConfig:
    """file: the text with its lines; service: the configuration of its one application; live: the Router's own;
    artefact: that takes the place of the configuration's.
    """

    file: ServeFile
    service: ServiceConfig
    live: LivePolicy | None = None
    artefact: str | None = None

    @property
    def replaced(self) -> ServiceConfig:
        """The service's configuration with the artefact that predicts."""
        service = self.service
        if self.artefact is None:
            return service
        predictor = service.predictor.model_copy(update={"artefact": self.artefact})
        return service.model_copy(update={"predictor": predictor})

    @property
    def limits(self) -> tuple[LimitConfig, ...]:
        """Limits on money, of `budget` and of the Router's `user_config`."""
        budget, live = self.service.budget, self.live
        of_budget = () if budget is None else budget.limits
        return of_budget if live is None else (*of_budget, *(live.limits or ()))

    @property
    def concurrency_limits(self) -> tuple[ConcurrencyLimitConfig, ...]:
        """Limits on what is in flight, of `routing` and of the Router's `user_config`."""
        live = () if self.live is None else self.live.concurrency_limits
        return (*self.service.routing.concurrency_limits, *live)

    @property
    def document(self) -> dict[str, Any]:
        """The file as `serve deploy` takes it."""
        return self.file.document


def read_config(path: str | Path) -> ReadConfig:
    """Reads and checks a configuration.

    Raises:
        ConfigurationError: the file is missing, is no YAML, or a field is wrong.
    """
    return check_config(ServeFile.read(path))


def check_config(file: ServeFile) -> ReadConfig:
    """Checks what a file holds, or would hold once it is written.

    Raises:
        ConfigurationError: a field is wrong.
    """
    if file.application.get("import_path") not in IMPORT_PATHS:
        raise file.fault((*APPLICATION, "import_path"), f"must be {IMPORT_PATH}; correct it")
    prefix = file.application.get("route_prefix", "/")
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise file.fault(
            (*APPLICATION, "route_prefix"),
            f"{prefix!r} is no prefix that Serve answers under; give / or one such as /llm, without a slash at its end",
        )
    deployments = _deployments(file)
    for number, changed in enumerate(deployments):
        alone = changed.get("num_replicas") in (None, 1) and changed.get("autoscaling_config") is None
        if changed.get("name") == ROUTER and not alone:
            raise file.fault(
                (*APPLICATION, "deployments", number),
                f"the {ROUTER} is one replica, since slots have one owner; remove its num_replicas and "
                "autoscaling_config",
            )
    service = file.checked(ServiceConfig, ARGUMENTS)
    live, artefact = None, None
    for number, changed in enumerate(deployments):
        try:
            if changed.get("name") == ROUTER and changed.get("user_config"):
                live = live_policy(changed["user_config"], service)
            if changed.get("name") == PREDICTOR and changed.get("user_config"):
                artefact = live_predictor(changed["user_config"]).artefact
        except ConfigurationError as error:
            raise file.fault((*APPLICATION, "deployments", number, "user_config"), error.message) from error
    return ReadConfig(file, service, live, artefact)


def _deployments(file: ServeFile) -> list[dict[str, Any]]:
    """What the file changes of deployments."""
    given = file.application.get("deployments") or []
    if not isinstance(given, list) or not all(isinstance(changed, dict) for changed in given):
        raise file.fault((*APPLICATION, "deployments"), "must be a list of mappings, each with a `name`; correct it")
    return given
