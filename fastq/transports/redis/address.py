"""What a Redis URL says: one server, or sentinels that know one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from fastq.exceptions import ImproperlyConfigured
from fastq.transports import display_url
from fastq.transports.redis.sentinel import Sentinels

__all__ = ["Address", "parse"]

PORT = 6379
SENTINEL_PORT = 26379

_EXPECTED = (
    "Expected redis://[user:password@]host[:port][/db], the same with rediss:// for TLS, unix:///path/to/socket[?db=n], "
    "or sentinel://host[:port];host[:port]/name of the primary[?db=n]."
)

_TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_ciphers")
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no")

#: raises ImproperlyConfigured
Refuse = Callable[[str], NoReturn]


class Address:
    """Where a server is and how to greet it, read from a URL. Its repr and ``display`` show no password."""

    __slots__ = ("db", "display", "host", "password", "path", "port", "sentinels", "ssl", "username")

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
        #: who is asked for host and port before every connect; None: they are above
        self.sentinels: Sentinels | None = None

    def shares(self, other: Address) -> bool:
        """Say whether two addresses are of the same database, as far as they tell.

        Two sets of sentinels that overlap watch the same servers, so there the name of the primary decides.
        """
        if self.db != other.db:
            return False
        mine, theirs = self.sentinels, other.sentinels
        if mine is None or theirs is None:
            return mine is theirs and (self.host.lower(), self.port, self.path) == (other.host.lower(), other.port, other.path)
        return mine.name == theirs.name and not mine.known.isdisjoint(theirs.known)

    def __repr__(self) -> str:
        return f"Address({self.display!r})"


def parse(url: str, extra: Mapping[str, object] | None = None) -> Address:
    """Read ``redis://[user:password@]host:port/db``, ``rediss://`` (TLS), ``unix:///path?db=n`` or ``redis+socket://``.

    Query: ``db``, ``username``, ``password``; with TLS also ``ssl_cert_reqs`` (none, optional, required), ``ssl_ca_certs``,
    ``ssl_certfile``, ``ssl_keyfile``, ``ssl_check_hostname``.

    ``sentinel://[user:password@]host:port;host:port/name[/db]``, or as Celery has it ``sentinel://host:port/db;sentinel://host:port``
    with the name as ``master_name`` in ``extra``, the transport options. User and password are the servers'; the sentinels' are
    ``sentinel_username`` and ``sentinel_password`` in the query, or in ``extra["sentinel_kwargs"]``. TLS: ``ssl=true`` to the
    servers, ``sentinel_ssl=true`` to the sentinels; ``sentinel+tls://`` means both. ImproperlyConfigured names what cannot be used.
    """
    address = Address(display_url(url))

    def refuse(problem: str) -> NoReturn:
        raise ImproperlyConfigured(f"Redis URL {address.display!r}: {problem}. {_EXPECTED}")

    if url.partition("://")[0].lower() in ("sentinel", "sentinel+tls"):
        _read_sentinels(url, extra or {}, address, refuse)
    else:
        _read_server(url, address, refuse)
    return address


def _read_server(url: str, address: Address, refuse: Refuse) -> None:
    parts = _split(url, refuse)
    scheme = parts.scheme.lower()
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    _read_login(parts, query, address)
    db = query.pop("db", query.pop("virtual_host", None))
    path = unquote(parts.path)
    host = parts.hostname
    if scheme in ("unix", "redis+socket"):
        # unix://user:password@/path: what stands before the path is the socket's folder for some clients; refuse rather than guess.
        if not path or path == "/":
            refuse("the path of the socket file is missing")
        if host:
            refuse(f"{host!r} stands where the absolute path of a socket file begins (three slashes: {scheme}:///path)")
        address.path = path
    else:
        address.host, address.port = host or "localhost", parts.port if parts.port is not None else PORT
        name = path.strip("/")
        if name and db is not None and name != db:
            refuse(f"two databases, {name!r} in the path and {db!r} in the query")
        db = name or db
    address.db = _database(db, refuse)
    if scheme == "rediss":
        address.ssl = _ssl_options(query, refuse)
    _refuse_rest(query, refuse)


def _read_sentinels(url: str, extra: Mapping[str, object], address: Address, refuse: Refuse) -> None:
    """Read both forms: one scheme for all hosts (fastq), or a whole URL for each (Celery)."""
    scheme = url.partition("://")[0].lower()
    places: list[tuple[str, int]] = []
    query: dict[str, str] = {}
    paths: list[str] = []
    for item in filter(None, url.partition("://")[2].split(";")):
        own, mark, rest = item.partition("://")
        if mark and own.lower() != scheme:
            refuse(f"{own}:// among the {scheme}:// hosts")
        parts = _split(f"sentinel://{rest if mark else item}", refuse)
        places.append(((parts.hostname or "localhost").lower(), parts.port if parts.port is not None else SENTINEL_PORT))
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if query.setdefault(name, value) != value:
                refuse(f"{name} is given twice, and not the same")
        _read_login(parts, {}, address)
        if path := unquote(parts.path).strip("/"):
            paths.append(path)
    _read_login(None, query, address)
    if len(set(paths)) > 1:
        refuse(f"{paths[0]!r} and {paths[1]!r} after the hosts: one is expected")
    name, db = _name_and_database(paths[0] if paths else "", query, extra, refuse)
    address.db = _database(db, refuse)
    if not places:
        refuse("no host of a sentinel is given")
    both = scheme == "sentinel+tls"
    to_servers = _flag(query, "ssl", both, refuse)
    to_sentinels = _flag(query, "sentinel_ssl", both, refuse)
    given = extra.get("sentinel_kwargs") or {}
    if not isinstance(given, Mapping):
        refuse("sentinel_kwargs among the transport options is not a mapping")
    own_options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    to_sentinels = bool(own_options.get("ssl", to_sentinels))
    tls = _ssl_options(query, refuse) if to_servers or to_sentinels else None
    own_tls = {key: own_options[key] for key in ("ssl_cert_reqs", "ssl_check_hostname", *_TLS) if key in own_options}
    address.ssl = tls if to_servers else None
    address.sentinels = Sentinels(
        name,
        tuple(dict.fromkeys(places)),
        username=query.pop("sentinel_username", None) or own_options.get("username"),
        password=query.pop("sentinel_password", None) or own_options.get("password"),
        ssl={**(tls or {}), **own_tls} if to_sentinels else None,
        timeout_s=own_options.get("socket_timeout") or own_options.get("socket_connect_timeout"),
        display=address.display,
    )
    _refuse_rest(query, refuse)


def _name_and_database(path: str, query: dict[str, str], extra: Mapping[str, object], refuse: Refuse) -> tuple[str, str | None]:
    """Return the primary's name and the database: the path holds the first, the second, or both in this order."""
    db = query.pop("db", query.pop("virtual_host", None))
    names = [query.pop("master_name", None), query.pop("service_name", None)]
    names += [str(extra[key]) for key in ("master_name", "service_name") if extra.get(key)]
    first, _, second = path.partition("/")
    given = [name for name in names if name]
    if second or (first and not (given and _is_number(first))):
        given.append(first)
        first = second
    if len(set(given)) > 1:
        refuse(f"two names of the primary, {given[0]!r} and {given[1]!r}")
    if not given or (_is_number(given[0]) and not any(names)):
        refuse(
            "the name of the primary that the sentinels watch is missing: put it behind the hosts (/mymaster), or give it as "
            "broker_transport_options={'master_name': 'mymaster'} (for results: result_backend_transport_options)"
        )
    if first and db is not None and first != db:
        refuse(f"two databases, {first!r} in the path and {db!r} in the query")
    return given[0], first or db


def _split(url: str, refuse: Refuse) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (it raises for what is no port)
    except ValueError:
        # urlsplit's own text can quote a password that holds a raw "/" or "#".
        refuse("host or port cannot be read (a password with /, #, ; or @ in it must be percent-encoded)")
    if parts.fragment:
        refuse("nothing may follow a '#' (in a password write it %23)")
    return parts


def _read_login(parts: SplitResult | None, query: dict[str, str], address: Address) -> None:
    """Take user and password; what was found first stays."""
    user = unquote(parts.username) if parts is not None and parts.username else None
    password = unquote(parts.password) if parts is not None and parts.password else None
    in_query = query.pop("username", None), query.pop("password", None)
    address.username = address.username or user or in_query[0]
    address.password = address.password or password or in_query[1]


def _database(db: str | None, refuse: Refuse) -> int:
    if db is None:
        return 0
    if not _is_number(db):
        refuse(f"the database {db!r} is not a number")
    return int(db)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _flag(query: dict[str, str], name: str, default: bool, refuse: Refuse) -> bool:
    word = query.pop(name, "true" if default else "false").lower()
    if word not in _YES + _NO:
        refuse(f"{name}={word!r} is not true or false")
    return word in _YES


def _ssl_options(query: dict[str, str], refuse: Refuse) -> dict[str, object]:
    options: dict[str, object] = {}
    reqs = query.pop("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if reqs not in ("none", "optional", "required"):
        refuse(f"ssl_cert_reqs={reqs!r} is not one of none, optional, required")
    options["ssl_cert_reqs"] = reqs
    options["ssl_check_hostname"] = _flag(query, "ssl_check_hostname", reqs != "none", refuse)
    for name in _TLS:
        if name in query:
            options[name] = query.pop(name)
    return options


def _refuse_rest(query: Mapping[str, str], refuse: Refuse) -> None:
    if query:
        refuse(f"unknown parameters {', '.join(sorted(query))}")
