"""Ports that parts of the service listen on."""

from __future__ import annotations

import errno
import socket

from apportion.router.errors import ConfigurationError

ANY_PORT = (0, 0)


def listen(host: str, ports: tuple[int, int], option: str) -> socket.socket:
    """A socket that listens on the first free port.

    Args:
        host: an IPv4 or IPv6 address, or a name.
        ports: the first and the last that may be used.
        option: of the configuration, that says so.

    Raises:
        ConfigurationError: all of these ports are taken.
    """
    family, *_ = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    for port in range(ports[0], ports[1] + 1):
        try:
            return socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise ConfigurationError(f"{option}: all are taken on {host}; allow more")
