"""The project's log lines in Ray Serve's log files.

Serve gives handlers (file, format, request ids) to its own logger `ray.serve` only; lines of any other logger get no
further than the error stream, and those below a warning nowhere.
"""

from __future__ import annotations

import logging

from ray import serve
from ray.serve.exceptions import RayServeException

PROJECT = "apportion"
SERVE = "ray.serve"


class ServeHandler(logging.Handler):
    """Hands every line to the handlers that Serve's logger has at that moment, at its level at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the line over."""
        target = logging.getLogger(SERVE)
        if not target.isEnabledFor(record.levelno):
            return
        # Not `target.handle`: outside of a replica it would go on to the root logger, where the line arrives anyway.
        for handler in target.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)


def log_to_serve() -> None:
    """Sends what the project's modules log to Serve's handlers; each deployment calls it when a replica starts.

    Outside of a replica nothing changes: there the program decides where its lines go.
    """
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    join(logging.getLogger(PROJECT))


def join(logger: logging.Logger) -> None:
    """Lets Serve's handlers have the logger's lines, once."""
    if not any(isinstance(handler, ServeHandler) for handler in logger.handlers):
        logger.setLevel(logging.DEBUG)  # Serve's level decides, which may change while the replica runs
        logger.addHandler(ServeHandler())
