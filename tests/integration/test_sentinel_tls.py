"""TLS to the servers, to the sentinels, to both."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastq.exceptions import OperationalError
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBroker
from tests.sentinels import NAME, Sentinel
from tests.servers import RedisServer, free_port
from tests.unit.redis_parts import publication

OPTIONS = TransportOptions(connect_timeout_s=2.0)


def certificate(folder: Path) -> list[str]:
    """Write a self-signed certificate for 127.0.0.1 and return the words by which a server uses it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fastq tests")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    files = {"cert-file": "cert.pem", "key-file": "key.pem", "ca-cert-file": "cert.pem"}
    return [word for name, file in files.items() for word in (f"--tls-{name}", str(folder / file))] + ["--tls-auth-clients", "no"]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """The sentinel's port without and with TLS, and the certificate; the server that it names speaks TLS there."""
    folder = tmp_path_factory.mktemp("tls")
    words = certificate(folder)
    server_tls, sentinel_tls = free_port(), free_port()
    try:
        server = RedisServer(folder / "server", "--tls-port", str(server_tls), *words)
    except RuntimeError as error:
        if "Bad directive" in str(error):
            pytest.skip("this redis-server was built without TLS")
        raise
    with server:
        watching = folder / "sentinel"
        watching.mkdir()
        lines = [f"sentinel monitor {NAME} 127.0.0.1 {server_tls} 1", f"tls-port {sentinel_tls}", "tls-replication yes"]
        lines += [f"{words[i][2:]} {words[i + 1]}" for i in range(0, len(words), 2)]
        with Sentinel(watching, lines) as sentinel:
            yield sentinel.port, sentinel_tls, folder / "cert.pem"


@pytest.mark.parametrize(
    "url",
    [
        "sentinel+tls://127.0.0.1:{tls}/{name}?ssl_ca_certs={ca}",
        "sentinel://127.0.0.1:{tls}/{name}?ssl=true&sentinel_ssl=true&ssl_ca_certs={ca}",
        "sentinel+tls://127.0.0.1:{plain}/{name}?sentinel_ssl=false&ssl_ca_certs={ca}",
        "sentinel://127.0.0.1:{plain}/{name}?ssl=true&ssl_ca_certs={ca}",
        "sentinel+tls://127.0.0.1:{tls}/{name}?ssl_cert_reqs=none",
    ],
)
def test_tls_is_spoken_where_it_is_asked_for(ports: tuple[int, int, Path], url: str) -> None:
    plain, tls, ca = ports
    broker = RedisBroker(url.format(plain=plain, tls=tls, ca=ca, name=NAME), OPTIONS)
    for number in range(1, 4):
        broker.publish(url, number, [publication(str(number))])
    broker._connection.check_place()
    assert broker._connection.is_open, "nobody has said that the primary is elsewhere"
    broker.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel+tls://127.0.0.1:{tls}/{name}", "certificate"),
        ("sentinel+tls://127.0.0.1:{plain}/{name}?ssl_ca_certs={ca}", "No sentinel of"),
        ("sentinel://127.0.0.1:{plain}/{name}", "cannot be reached or closed the connection|did not answer"),
        ("sentinel://127.0.0.1:{plain}/{name}?ssl=true", "cannot be spoken to with TLS"),
    ],
)
def test_what_is_wrong_with_tls_is_said(ports: tuple[int, int, Path], url: str, says: str) -> None:
    plain, tls, ca = ports
    with pytest.raises(OperationalError, match=says):
        RedisBroker(url.format(plain=plain, tls=tls, ca=ca, name=NAME), OPTIONS).now_ms()
