"""What a transport URL may say, what it may not, and that no password is ever shown."""

from __future__ import annotations

import pytest

from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.transports import TransportOptions, display_url, open_backend, open_broker, scheme_of
from fastq.transports.redis.address import Address, parse
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.errors import explain

SECRET = "s3cr3t"


def test_url_says_where_and_as_whom() -> None:
    address = parse("redis://ann:p%40ss@example.org:7000/3")
    assert (address.host, address.port, address.db, address.username, address.password) == ("example.org", 7000, 3, "ann", "p@ss")


def test_url_without_anything_means_the_local_server() -> None:
    address = parse("redis://")
    assert (address.host, address.port, address.db, address.username, address.password) == ("localhost", 6379, 0, None, None)


@pytest.mark.parametrize("url", ["unix:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?virtual_host=2"])
def test_socket_file_urls(url: str) -> None:
    address = parse(url)
    assert (address.path, address.db, address.host) == ("/run/redis.sock", 2, "")


def test_tls_options_come_from_the_query() -> None:
    address = parse("rediss://:x@h/1?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=/ca.pem")
    assert address.ssl == {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h/zero", "'zero' is not a number"),
        ("redis://h/-1", "'-1' is not a number"),
        ("redis://h:port/0", "host or port"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h/1?tiemout=3", "unknown parameters tiemout"),
        ("redis://h/1?ssl_cert_reqs=none", "unknown parameters ssl_cert_reqs"),
        ("rediss://h/1?ssl_cert_reqs=maybe", "ssl_cert_reqs='maybe'"),
        ("unix://", "path of the socket file is missing"),
        ("unix://run/redis.sock", "three slashes"),
        (f"redis://:{SECRET}#1@h/0", "host or port|'#'"),
        (f"redis://:{SECRET}/x@h/0", "host or port|not a number"),
    ],
)
def test_unusable_url_is_refused_with_what_was_seen(url: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says) as caught:
        parse(url)
    assert SECRET not in str(caught.value)


def test_unknown_scheme_names_the_known_ones_and_the_one_meant() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"redis://, rediss://.*Did you mean redis://\?"):
        scheme_of(f"reddis://:{SECRET}@h")
    with pytest.raises(ImproperlyConfigured, match="not a transport URL"):
        open_broker("localhost:6379", TransportOptions())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@h:1/0", "redis://:**@h:1/0"),
        (f"redis://ann:{SECRET}@h", "redis://ann:**@h"),
        (f"redis://{SECRET}@h", "redis://**@h"),
        (f"redis://:a@{SECRET}/@h/1", "redis://:**@h/1"),
        (f"unix:///run/x?password={SECRET}&db=1", "unix:///run/x?password=**&db=1"),
        ("redis://h/1", "redis://h/1"),
        (f"nothing {SECRET}@h", "**@h"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert display_url(url) == shown


def test_no_repr_shows_a_password() -> None:
    options = TransportOptions()
    url = f"redis://ann:{SECRET}@127.0.0.1:1/0"
    parts = [open_broker(url, options), open_backend(url, options), parse(url), Connection(parse(url), options, "x")]
    assert not any(SECRET in repr(part) or SECRET in getattr(part, "url", "") for part in parts)


def test_missing_client_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'fastq\[redis\]'"):
        open_broker("redis://", TransportOptions())


def test_timeouts_are_told_from_refused_connections() -> None:
    import redis.exceptions

    address = Address("redis://h")
    assert "did not answer in time" in str(explain(redis.exceptions.TimeoutError("Timeout reading"), address))
    assert "cannot be reached" in str(explain(redis.exceptions.ConnectionError("refused"), address))
    assert "loading" in str(explain(redis.exceptions.BusyLoadingError("LOADING x"), address))
    assert "replica" in str(explain(redis.exceptions.ReadOnlyError("READONLY x"), address))
    assert isinstance(explain(ValueError("x"), address), OperationalError)
