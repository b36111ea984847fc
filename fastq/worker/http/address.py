"""Where health and metrics are served: ``HOST:PORT``, ``:PORT`` (every interface) or ``unix:PATH``."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass

from fastq.exceptions import ImproperlyConfigured

__all__ = ["Address"]

#: waiting connections that the system keeps
BACKLOG = 32
#: bytes of a path that a unix socket can have, with the zero behind it
PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen at, or to ask."""

    #: "": every interface
    host: str = ""
    port: int = 0
    #: of a unix socket, "": it is none
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address; ImproperlyConfigured if it is none."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path or len(os.fsencode(path)) > PATH_MAX:
                raise _wrong(text, f"a socket's path has 1 to {PATH_MAX} bytes")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon:
            raise _wrong(text, "the port is missing")
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise _wrong(text, f"{port!r} is no port: these are 0 to 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise _wrong(text, "an IPv6 address stands in brackets, as in [::1]:9808")
        return cls(host="" if host == "*" else host, port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self) -> socket.socket:
        """Return a listening socket that does not block; ImproperlyConfigured if there can be none."""
        try:
            server = self._listen_unix() if self.path else self._listen_tcp()
        except OSError as exc:
            raise ImproperlyConfigured(f"health and metrics cannot be served at {self}: {_reason(exc)}") from exc
        server.setblocking(False)
        return server

    def _listen_tcp(self) -> socket.socket:
        if not self.host and socket.has_dualstack_ipv6():
            return socket.create_server(("", self.port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)

    def _listen_unix(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        try:
            _clear_stale(self.path)
            server.bind(self.path)
            server.listen(BACKLOG)
        except BaseException:
            server.close()
            raise
        return server

    def connect(self, timeout_s: float) -> socket.socket:
        """Return a connection to who listens there; OSError if nobody does."""
        if not self.path:
            return socket.create_connection((self.host or "localhost", self.port), timeout_s)
        client = socket.socket(socket.AF_UNIX)
        try:
            client.settimeout(timeout_s)
            client.connect(self.path)
        except BaseException:
            client.close()
            raise
        return client

    def leave(self) -> None:
        """Remove what a listening socket leaves in the file system."""
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)


def _clear_stale(path: str) -> None:
    """Remove the socket of a process that was killed; one where somebody listens, and any other file, stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(1)
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
        except OSError:
            return


def _wrong(text: str, why: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{text!r} is no address for health and metrics: {why} (HOST:PORT, :PORT or unix:PATH)")


def _reason(exc: OSError) -> str:
    import errno  # lazy: only to say what is wrong

    if exc.errno == errno.EADDRINUSE:
        return "the address is already in use, by another worker perhaps; each needs one of its own (or none: see fastq health)"
    return exc.strerror or str(exc)
