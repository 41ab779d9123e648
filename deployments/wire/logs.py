"""The project's log lines in Ray Serve's log files.

Serve gives handlers (file, format, request ids) to its own logger `ray.serve` only; lines of any other logger get no
further than the error stream, and those below a warning nowhere.
"""

from __future__ import annotations

import logging

PROJECT = "apportion"
SERVE = "ray.serve"


class ServeHandler(logging.Handler):
    """Hands every line to the handlers that Serve's logger has at that moment, at its level at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the line over."""
        serve = logging.getLogger(SERVE)
        if not serve.isEnabledFor(record.levelno):
            return
        # Not `serve.handle`: outside of a replica it would go on to the root logger, where the line arrives anyway.
        for handler in serve.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)


def log_to_serve() -> None:
    """Sends what the project's modules log to Serve's handlers; each deployment calls it when a replica starts."""
    logger = logging.getLogger(PROJECT)
    if any(isinstance(handler, ServeHandler) for handler in logger.handlers):
        return
    logger.setLevel(logging.DEBUG)  # Serve's level decides, which may change while the replica runs
    logger.addHandler(ServeHandler())
