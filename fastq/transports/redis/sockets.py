"""Open a connection of redis-py: timeouts, keepalive, TLS, login.

Only its lowest part is used, ``Connection`` with hiredis: a call of its client costs about 50 us of Python, and its pools,
retries and health checks would make one call into several.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

__all__ = ["RawConnection", "open_raw"]

#: bytes per read from the socket: a batch of results in few reads
READ_SIZE = 256 * 1024

#: seconds of silence before the kernel probes a connection, seconds between probes, probes: dead after about a minute
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))

#: a host that has not acknowledged for as long as its answer may take is gone; the kernel alone would go on for 15 minutes. Never
#: less, seconds: a network that drops packets needs time to send them again
UNACKNOWLEDGED_S = 5.0


class RawConnection(Protocol):
    """What is used of redis-py's ``Connection``; the same from redis-py 5 on."""

    _sock: socket.socket | None

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def pack_command(self, *words: Any) -> Sequence[bytes]: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None: ...
    def read_response(self) -> Any: ...
    def can_read(self, timeout: float = 0) -> bool: ...


def open_raw(
    *,
    host: str = "",
    port: int = 0,
    path: str = "",
    ssl: Mapping[str, object] | None = None,
    username: str | None = None,
    password: str | None = None,
    db: int = 0,
    client_name: str | None = None,
    connect_timeout_s: float,
    socket_timeout_s: float,
) -> RawConnection:
    """Connect, log in and select the database; raises redis-py's errors and OSError."""
    from redis import connection  # lazy: 0.1 s of imports that a producer pays at its first call only

    settings: dict[str, Any] = {
        "db": db,
        "username": username,
        "password": password,
        "socket_timeout": socket_timeout_s,
        "client_name": client_name,
        "protocol": 2,
        # One call is one call: whoever calls decides about trying again.
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "socket_read_size": READ_SIZE,
    }
    kind: Any
    if path:
        kind = connection.UnixDomainSocketConnection
        settings["path"] = path
    else:
        kind = connection.Connection
        settings |= {"host": host, "port": port, "socket_connect_timeout": connect_timeout_s}
        settings["socket_keepalive"] = True
        settings["socket_keepalive_options"] = _tcp_options(socket_timeout_s)
        if ssl is not None:
            kind = connection.SSLConnection
            settings |= ssl
    raw = cast(RawConnection, kind(**settings))
    try:
        raw.connect()
    except BaseException:
        raw.disconnect()
        raise
    return raw


def _tcp_options(socket_timeout_s: float) -> dict[int, int]:
    """Return the options of IPPROTO_TCP, as far as this system has them."""
    wanted = [*KEEPALIVE, ("TCP_USER_TIMEOUT", round(max(UNACKNOWLEDGED_S, socket_timeout_s) * 1000))]
    return {getattr(socket, name): value for name, value in wanted if hasattr(socket, name)}
