"""One connection to one Redis server: a whole pipeline per call, and errors that say what to do.

The commands go through redis-py's ``Connection`` and hiredis, without its client on top: a client call costs about 50 us of Python,
and its pools, retries and health checks would make one call into several.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.transports import display_url
from fastq.transports.base import TransportOptions
from fastq.transports.redis.scripts import Script, script

__all__ = ["Address", "Connection", "RawConnection", "explain", "parse"]

#: bytes per read from the socket: a batch of results in few reads
READ_SIZE = 256 * 1024

#: seconds of silence before the kernel probes a connection, seconds between probes, probes: dead after about a minute
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class RawConnection(Protocol):
    """What is used of redis-py's ``Connection``; the same from redis-py 5 on."""

    _sock: socket.socket | None

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def pack_command(self, *words: Any) -> Sequence[bytes]: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None: ...
    def read_response(self) -> Any: ...
    def can_read(self, timeout: float = 0) -> bool: ...


class Address:
    """Where a server is and how to greet it, read from a URL. Its repr and ``display`` show no password."""

    __slots__ = ("db", "display", "host", "password", "path", "port", "ssl", "username")

    def __init__(self, display: str) -> None:
        self.display = display
        self.host = ""
        self.port = 0
        self.path = ""
        self.db = 0
        self.username: str | None = None
        self.password: str | None = None
        #: keyword arguments of redis-py's SSLConnection; None: no TLS
        self.ssl: dict[str, object] | None = None

    @property
    def place(self) -> tuple[str, int, str, int]:
        """What two addresses of the same database have in common."""
        return (self.host.lower(), self.port, self.path, self.db)

    def __repr__(self) -> str:
        return f"Address({self.display!r})"


def parse(url: str) -> Address:
    """Read ``redis://[user:password@]host:port/db``, ``rediss://`` (TLS), ``unix:///path?db=n`` or ``redis+socket://``.

    Query: ``db``, ``username``, ``password``; with TLS also ``ssl_cert_reqs`` (none, optional, required), ``ssl_ca_certs``,
    ``ssl_certfile``, ``ssl_keyfile``, ``ssl_check_hostname``. ImproperlyConfigured names what cannot be used.
    """
    shown = display_url(url)
    address = Address(shown)

    def refuse(problem: str) -> NoReturn:
        raise ImproperlyConfigured(
            f"Redis URL {shown!r}: {problem}. Expected redis://[user:password@]host[:port][/db], the same with rediss:// for TLS, "
            "or unix:///path/to/socket[?db=n]."
        )

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # urlsplit's own text can quote a password that holds a raw "/" or "#".
        refuse("host or port cannot be read (a password with /, # or @ in it must be percent-encoded)")
    scheme = parts.scheme.lower()
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    address.username = unquote(parts.username) if parts.username else query.pop("username", None)
    address.password = unquote(parts.password) if parts.password else query.pop("password", None)
    if parts.fragment:
        refuse("nothing may follow a '#' (in a password write it %23)")
    db = query.pop("db", query.pop("virtual_host", None))
    path = unquote(parts.path)
    if scheme in ("unix", "redis+socket"):
        # unix://user:password@/path: what stands before the path is the socket's folder for some clients; refuse rather than guess.
        if not path or path == "/":
            refuse("the path of the socket file is missing")
        if host:
            refuse(f"{host!r} stands where the absolute path of a socket file begins (three slashes: {scheme}:///path)")
        address.path = path
    else:
        address.host, address.port = host or "localhost", port if port is not None else 6379
        name = path.strip("/")
        if name and db is not None and name != db:
            refuse(f"two databases, {name!r} in the path and {db!r} in the query")
        db = name or db
    if db is not None:
        if not db.isascii() or not db.isdigit():
            refuse(f"the database {db!r} is not a number")
        address.db = int(db)
    if scheme == "rediss":
        address.ssl = _ssl_options(query, refuse)
    if query:
        refuse(f"unknown parameters {', '.join(sorted(query))}")
    return address


def _ssl_options(query: dict[str, str], refuse: Any) -> dict[str, object]:
    options: dict[str, object] = {}
    reqs = query.pop("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if reqs not in ("none", "optional", "required"):
        refuse(f"ssl_cert_reqs={reqs!r} is not one of none, optional, required")
    options["ssl_cert_reqs"] = reqs
    check = query.pop("ssl_check_hostname", "false" if reqs == "none" else "true").lower()
    if check not in ("true", "false", "1", "0", "yes", "no"):
        refuse(f"ssl_check_hostname={check!r} is not true or false")
    options["ssl_check_hostname"] = check in ("true", "1", "yes")
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_ciphers"):
        if name in query:
            options[name] = query.pop(name)
    return options


class Connection:
    """A connection that is opened at the first call, and again at the first call after any error.

    Used by one thread or greenlet at a time, and not across a fork.
    """

    def __init__(self, address: Address, options: TransportOptions, role: str) -> None:
        self.address = address
        self.role = role
        self._options = options
        self._raw: RawConnection | None = None
        # the client's error classes, known once it is imported
        self._response_error: type[Exception] = Exception
        self._no_script: type[Exception] = Exception
        #: commands that were sent again because the server did not know their script: they ran behind what followed them
        self.repeated = 0
        self._pack: Callable[[tuple[Any, ...]], bytes]

    def __repr__(self) -> str:
        return f"<Connection to {self.address.display} for {self.role}>"

    @property
    def is_open(self) -> bool:
        return self._raw is not None

    def raw_or_none(self) -> RawConnection | None:
        """Return redis-py's connection if it is open."""
        return self._raw

    def send(self, *command: Any) -> None:
        """Send one command and leave its reply to the reader of a subscription; does not connect."""
        if self._raw is None:
            raise OperationalError(f"The connection to {self.address.display} is not open.")
        try:
            self._raw.send_packed_command([self._pack(command)], check_health=False)
        except Exception as error:
            self.close()
            raise explain(error, self.address) from error

    def call(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one write and return their replies in order.

        A command that begins with a Script runs it: (script, number of keys, key ..., argument ...). It is sent by its digest;
        where the server does not know it nothing has run, and that command alone is sent again with the text. Error replies
        raise, after all replies are read. Any error closes the connection and is raised as OperationalError.
        """
        try:
            raw = self._raw or self._open()
            pack = self._pack
            packed = [pack(_by_digest(command)) for command in commands]
            raw.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)], check_health=False)
            replies: list[Any] = []
            response_error = self._response_error
            failed = False
            for _ in commands:
                try:
                    replies.append(raw.read_response())
                except response_error as error:
                    # The server's own answer: the replies behind it are still to be read.
                    replies.append(error)
                    failed = True
            if failed:
                for i, reply in enumerate(replies):
                    if isinstance(reply, Exception):
                        replies[i] = self._again(raw, commands[i], reply)
            return replies
        except OperationalError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise explain(error, self.address) from error
        except BaseException:
            # A timeout of gevent, KeyboardInterrupt: replies may still be on their way, so this connection is spent.
            self.close()
            raise

    def run(self, name: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run one script."""
        return self.call([(name, len(keys), *keys, *arguments)])[0]

    def clock_ms(self) -> int:
        """Ask for the server's clock, Unix ms."""
        return int(self.run(script("time"), (), ()))

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.disconnect()

    def _again(self, raw: RawConnection, command: tuple[Any, ...], error: Exception) -> Any:
        if not isinstance(command[0], Script) or not isinstance(error, self._no_script):
            raise error
        self.repeated += 1
        raw.send_packed_command([self._pack(("EVAL", command[0].text, *command[1:]))], check_health=False)
        return raw.read_response()

    def _open(self) -> RawConnection:
        from redis import connection, exceptions  # lazy: 0.1 s of imports that a producer pays at its first call only

        self._response_error = exceptions.ResponseError
        self._no_script = exceptions.NoScriptError
        address, options = self.address, self._options
        settings: dict[str, Any] = {
            "db": address.db,
            "username": address.username,
            "password": address.password,
            "socket_timeout": options.socket_timeout_s,
            "client_name": f"fastq:{self.role}",
            "protocol": 2,
            # One call is one call: whoever calls decides about trying again.
            "retry_on_timeout": False,
            "health_check_interval": 0,
            "socket_read_size": READ_SIZE,
        }
        kind: Any
        if address.path:
            kind = connection.UnixDomainSocketConnection
            settings["path"] = address.path
        else:
            kind = connection.Connection
            settings |= {"host": address.host, "port": address.port, "socket_connect_timeout": options.connect_timeout_s}
            settings["socket_keepalive"] = True
            settings["socket_keepalive_options"] = {
                getattr(socket, name): value for name, value in KEEPALIVE if hasattr(socket, name)
            }
            if address.ssl is not None:
                kind = connection.SSLConnection
                settings |= address.ssl
        raw = cast(RawConnection, kind(**settings))
        try:
            raw.connect()
        except Exception as error:
            raw.disconnect()
            raise explain(error, address) from error
        try:
            # Straight to hiredis: on the way redis-py looks at every argument, 0.1 us each.
            from hiredis import pack_command  # lazy: comes with the client library

            self._pack = pack_command
        except ImportError:
            self._pack = lambda words: b"".join(raw.pack_command(*words))
        self._raw = raw
        return raw


def _by_digest(command: tuple[Any, ...]) -> tuple[Any, ...]:
    head = command[0]
    return ("EVALSHA", head.sha, *command[1:]) if isinstance(head, Script) else command


_WRAPPED = re.compile(r"^Error running script.*?: -?([A-Z]{3,}) ")


def explain(error: Exception, address: Address) -> OperationalError:
    """Return the error to raise for one of the client's: what was seen, and what to do."""
    from redis import exceptions as seen  # lazy: the client is imported by now

    text = str(error).rstrip(".") or type(error).__name__
    # Redis 6.2 wraps what a command in a script answers: "Error running script (...): -OOM command not allowed ...".
    wrapped = _WRAPPED.search(text)
    code = wrapped[1] if wrapped else text.partition(" ")[0]
    where = f"Redis at {address.display}"
    lower = text.lower()
    if isinstance(error, seen.BusyLoadingError):
        message = f"{where} is loading its data set into memory: try again when it has finished."
    elif isinstance(error, seen.AuthenticationError | seen.AuthorizationError) or code in ("WRONGPASS", "NOAUTH"):
        given = "a password" if address.password else "no password"
        message = f"{where} refused the login ({text}; the URL has {given}): correct user and password in the URL."
    elif isinstance(error, seen.NoPermissionError) or code == "NOPERM":
        message = f"{where} forbids what fastq needs ({text}): give this user all commands, keys and channels of the prefix."
    elif "db index" in lower or "invalid database" in lower:
        message = f"{where} has no database {address.db} ({text}): choose one below its 'databases' setting."
    elif isinstance(error, seen.ReadOnlyError) or code == "READONLY":
        message = f"{where} is a read-only replica ({text}): use the URL of the primary."
    elif isinstance(error, seen.OutOfMemoryError) or code == "OOM":
        message = f"{where} is out of memory and refuses new data ({text}): let workers drain the queues, or raise 'maxmemory'."
    elif isinstance(error, seen.TimeoutError | TimeoutError):
        message = f"{where} did not answer in time ({text}): check the server's load and the network."
    elif isinstance(error, seen.ConnectionError | OSError):
        message = f"{where} cannot be reached or closed the connection ({text}): check that it runs there and is reachable."
    elif code == "WRONGTYPE":
        message = f"{where} holds a foreign value under one of fastq's keys ({text}): give the application another key_prefix."
    elif isinstance(error, seen.NoScriptError):
        message = f"{where} forgot a script that was just sent ({text}): try again."
    elif isinstance(error, seen.ResponseError):
        message = f"{where} answered with an error: {text}."
    else:
        message = f"{where}: {type(error).__name__}: {text}."
    return OperationalError(message)
