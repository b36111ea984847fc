"""What URLs of sentinels may say, in fastq's form and in Celery's, what they may not, and that no password is ever shown."""

from __future__ import annotations

import pytest

from fastq import FastQ
from fastq.exceptions import ImproperlyConfigured
from fastq.settings.tls import secured
from fastq.transports import TransportOptions, display_url, open_backend, open_broker
from fastq.transports.redis.address import parse

SECRET = "s3cr3t"
THREE = (("h1", 26379), ("h2", 26380), ("h3", 26379))


def test_one_scheme_for_all_hosts() -> None:
    address = parse("sentinel://ann:p%40ss@h1;h2:26380;H3/mymaster?db=2&sentinel_username=bob&sentinel_password=w%3Brd")
    sentinels = address.sentinels
    assert sentinels is not None
    assert (address.username, address.password, address.db, address.ssl) == ("ann", "p@ss", 2, None)
    assert (sentinels.name, sentinels.places, sentinels.ssl) == ("mymaster", THREE, None)
    assert (sentinels._username, sentinels._password) == ("bob", "w;rd")


def test_one_url_for_each_host_as_celery_has_it() -> None:
    extra = {"master_name": "mymaster", "sentinel_kwargs": {"password": SECRET, "socket_timeout": 0.1}}
    address = parse("sentinel://:word@h1/1;sentinel://:word@h2:26380/1;sentinel://:word@h3:26379/1", extra)
    sentinels = address.sentinels
    assert sentinels is not None
    assert (address.password, address.db, sentinels.name, sentinels.places) == ("word", 1, "mymaster", THREE)
    assert (sentinels._password, sentinels._timeout_s) == (SECRET, 0.1)


@pytest.mark.parametrize(
    ("url", "extra", "expected"),
    [
        ("sentinel://h/mymaster", {}, ("mymaster", 0)),
        ("sentinel://h/mymaster/3", {}, ("mymaster", 3)),
        ("sentinel://h/mymaster?db=3", {}, ("mymaster", 3)),
        ("sentinel://h/3?master_name=mymaster", {}, ("mymaster", 3)),
        ("sentinel://h", {"master_name": "mymaster"}, ("mymaster", 0)),
        ("sentinel://h/3", {"master_name": "7"}, ("7", 3)),
        ("sentinel://h/mymaster", {"master_name": "mymaster"}, ("mymaster", 0)),
        ("sentinel://h1/3;sentinel://h2", {"service_name": "mymaster"}, ("mymaster", 3)),
    ],
)
def test_name_and_database_stand_in_the_path_the_query_or_the_options(url: str, extra: dict, expected: tuple[str, int]) -> None:
    address = parse(url, extra)
    assert address.sentinels is not None
    assert (address.sentinels.name, address.db) == expected


@pytest.mark.parametrize(
    ("url", "servers", "sentinels"),
    [
        ("sentinel://h/m", False, False),
        ("sentinel://h/m?ssl=true", True, False),
        ("sentinel://h/m?sentinel_ssl=true", False, True),
        ("sentinel+tls://h/m?ssl_ca_certs=/ca.pem", True, True),
        ("sentinel+tls://h/m?sentinel_ssl=false", True, False),
        (secured("sentinel://h1/0;sentinel://h2/0?master_name=m", {"ssl_cert_reqs": 0}, "broker_use_ssl"), True, False),
    ],
)
def test_tls_to_servers_and_to_sentinels_is_asked_for_apart(url: str, servers: bool, sentinels: bool) -> None:
    address = parse(url)
    assert address.sentinels is not None
    assert ((address.ssl is not None), (address.sentinels.ssl is not None)) == (servers, sentinels)
    if "ca.pem" in url:
        assert address.ssl == address.sentinels.ssl
        assert address.ssl is not None and address.ssl["ssl_ca_certs"] == "/ca.pem"


def test_celerys_way_to_ask_for_tls_to_sentinels_is_understood() -> None:
    extra = {"master_name": "m", "sentinel_kwargs": {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}}
    address = parse("sentinel://h/0?ssl=true", extra)
    assert address.sentinels is not None and address.sentinels.ssl is not None and address.ssl is not None
    assert (address.sentinels.ssl["ssl_cert_reqs"], address.ssl["ssl_cert_reqs"]) == ("none", "required")


@pytest.mark.parametrize(
    ("url", "extra", "says"),
    [
        ("sentinel://h", {}, "name of the primary.*missing.*master_name"),
        ("sentinel://h/0", {}, "name of the primary.*missing"),
        ("sentinel:///mymaster?x=", {}, "unknown parameters x"),
        ("sentinel://", {"master_name": "m"}, "no host"),
        ("sentinel://h/one", {"master_name": "two"}, "two names of the primary"),
        ("sentinel://h1/1;sentinel://h2/2", {"master_name": "m"}, "one is expected"),
        ("sentinel://h/m/1?db=2", {}, "two databases"),
        ("sentinel://h/m/one", {}, "'one' is not a number"),
        ("sentinel://h:port/m", {}, "host or port"),
        ("sentinel://h1/m;redis://h2", {}, "redis:// among the sentinel:// hosts"),
        ("sentinel://h/m?ssl=maybe", {}, "ssl='maybe'"),
        ("sentinel://h/m?ssl_cert_reqs=none", {}, "unknown parameters ssl_cert_reqs"),
        ("sentinel://h/m", {"sentinel_kwargs": [1]}, "sentinel_kwargs.*not a mapping"),
        (f"sentinel://:{SECRET}#@h/m", {}, "host or port|'#'"),
    ],
)
def test_unusable_url_is_refused_with_what_was_seen(url: str, extra: dict, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says) as caught:
        parse(url, extra)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"sentinel://:{SECRET}@h1:1;h2:2/m", "sentinel://:**@h1:1;h2:2/m"),
        (f"sentinel://h1;h2/m?sentinel_password={SECRET}&db=1", "sentinel://h1;h2/m?sentinel_password=**&db=1"),
        (f"sentinel://:{SECRET}@h1/0;sentinel://ann:{SECRET}@h2/0", "sentinel://:**@h1/0;sentinel://ann:**@h2/0"),
        (f"sentinel+tls://:{SECRET}@h1;sentinel+tls://:{SECRET}@h2", "sentinel+tls://:**@h1;sentinel+tls://:**@h2"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert display_url(url) == shown
    options = TransportOptions(extra={"master_name": "m", "sentinel_kwargs": {"password": SECRET}})
    parts = [open_broker(url, options), open_backend(url, options), parse(url, options.extra), parse(url, options.extra).sentinels]
    assert not any(SECRET in repr(part) or SECRET in getattr(part, "url", "") for part in parts)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("sentinel://h1;h2/m", "sentinel://h2;h3/m", True),
        ("sentinel://h1;h2/m", "sentinel://H2/m/0", True),
        ("sentinel://h1;h2/m", "sentinel://:other@h1:26379/m", True),
        ("sentinel://h1;h2/m", "sentinel://h3/m", False),
        ("sentinel://h1;h2/m", "sentinel://h1;h2/n", False),
        ("sentinel://h1/m", "sentinel://h1/m/1", False),
        ("sentinel://h1:26379/m", "redis://h1:26379", False),
        ("redis://H1/1", "redis://h1:6379?db=1", True),
        ("redis://h1", "redis://h2", False),
    ],
)
def test_two_urls_of_one_database_are_known_as_such(one: str, two: str, same: bool) -> None:
    assert parse(one).shares(parse(two)) is same
    assert parse(two).shares(parse(one)) is same
    options = TransportOptions()
    assert open_backend(one, options).shares(open_broker(two, options)) is same


def test_options_reach_the_transports_of_messages_and_of_results() -> None:
    app = FastQ("sentinels", broker="sentinel://h1/0;sentinel://h2/0", backend="sentinel://h1/1;sentinel://h2/1")
    app.conf.broker_transport_options = {"master_name": "mymaster"}
    app.open_broker()
    with pytest.raises(ImproperlyConfigured, match="result_backend_transport_options"):
        app.open_backend()
    app.conf.result_backend_transport_options = {"master_name": "mymaster"}
    assert app.open_backend() is not None
    app.close()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (4.0, 30.0)),
        ({"broker_connection_timeout": 2}, (2.0, 30.0)),
        ({"redis_socket_timeout": 120.0, "redis_socket_connect_timeout": 5}, (5.0, 120.0)),
        ({"redis_socket_timeout": None}, (4.0, 30.0)),
        ({"redis_socket_timeout": 9, "broker_transport_options": {"socket_timeout": 7, "socket_connect_timeout": 3}}, (3.0, 7.0)),
        ({"broker_transport_options": {"socket_timeout": None}}, (4.0, 30.0)),
    ],
)
def test_timeouts_are_settings_and_transport_options(settings: dict, expected: tuple[float, float]) -> None:
    app = FastQ("timeouts", broker="redis://h", backend="redis://h")
    app.conf.update(settings)
    options = app.transport_options()
    assert (options.connect_timeout_s, options.socket_timeout_s) == expected
    assert app.open_broker(3.0).options.socket_timeout_s == 3.0  # type: ignore[attr-defined]
    assert app.open_broker(1000.0).options.socket_timeout_s == expected[1]  # type: ignore[attr-defined]
    app.close()


@pytest.mark.parametrize("value", [-1, "soon", True, float("inf")])
def test_timeouts_that_are_none_are_refused(value: object) -> None:
    app = FastQ("timeouts", broker="redis://h")
    app.conf.broker_transport_options = {"socket_timeout": value}
    with pytest.raises(ImproperlyConfigured, match="socket_timeout="):
        app.transport_options()
