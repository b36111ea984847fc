"""Open a connection: timeouts, keepalive, TLS, login.

With TLS, or without hiredis, it is redis-py's ``Connection``, its lowest part: a call of its client costs about 50 us of Python,
and its pools, retries and health checks would make one call into several. Else it is ours (``plain``).
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from fastq.transports.redis.plain import PlainConnection

__all__ = ["RawConnection", "open_raw", "preload"]

#: bytes per read of redis-py: a batch of results in few reads
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
    """Connect, log in and select the database; raises redis-py's errors, those of ``plain``, and OSError."""
    if ssl is None and (plain := _plain()) is not None:
        ours: RawConnection = plain(
            host=host,
            port=port,
            path=path,
            username=username,
            password=password,
            db=db,
            client_name=client_name,
            connect_timeout_s=connect_timeout_s,
            socket_timeout_s=socket_timeout_s,
            tcp_options=_tcp_options(socket_timeout_s),
        )
        return _connected(ours)
    from redis import connection  # lazy: 0.2 s and 10 MiB of imports, and most need none of it

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
    return _connected(cast(RawConnection, kind(**settings)))


def preload(*, tls: bool) -> None:
    """Import what connections will need."""
    if tls or _plain() is None:
        importlib.import_module("redis.connection")


def _plain() -> type[PlainConnection] | None:
    try:
        from fastq.transports.redis.plain import PlainConnection  # lazy: needs hiredis

        return PlainConnection
    except ImportError:
        return None


def _connected(raw: RawConnection) -> RawConnection:
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
