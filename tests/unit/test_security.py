"""Laws of signed messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq.exceptions import ImproperlyConfigured, SecurityError
from fastq.security import ENTRY, REPLY, REQUEST, Signer, make_signer

SECRET = "a secret of the whole team"
MESSAGE = _core.encode(
    "id", "tasks.add", "application/x-msgpack", b"\x92\x90\x80", 1, None, 0, "inbox", {"flow": {"links": [b"x"]}}
)


def pems(private: ed25519.Ed25519PrivateKey) -> tuple[str, str]:
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return secret, public.decode()


def signer(key: str | None, *trusted: str) -> Signer:
    made = make_signer(key, trusted)
    assert made is not None
    return made


PRIVATE, PUBLIC = pems(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture(params=[SECRET, PRIVATE], ids=["hmac", "ed25519"])
def own(request: pytest.FixtureRequest) -> Signer:
    return signer(request.param)


def test_a_signed_message_is_good_and_reads_as_before(own: Signer) -> None:
    signed = own.sign(MESSAGE)
    own.check(signed)
    before, after = _core.peek(MESSAGE), _core.peek(signed)
    assert (after.id, after.name, after.body, after.inbox, after.flow) == (
        before.id,
        before.name,
        before.body,
        before.inbox,
        before.flow,
    )


def test_signing_again_changes_nothing(own: Signer) -> None:
    assert own.sign(own.sign(MESSAGE)) == own.sign(MESSAGE)


def test_a_redelivered_message_is_still_good(own: Signer) -> None:
    own.check(_core.remark(own.sign(MESSAGE), 2, True))


def test_an_unsigned_message_is_refused(own: Signer) -> None:
    with pytest.raises(SecurityError, match="not signed"):
        own.check(MESSAGE)
    with pytest.raises(SecurityError):
        own.check(b"")
    with pytest.raises(SecurityError):
        own.check(_core.remark(MESSAGE, 1))


@pytest.mark.parametrize("key", [SECRET, PRIVATE])
@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_message_changed_anywhere_is_refused(key: str, at: int, flip: int) -> None:
    own = signer(key)
    signed = bytearray(own.sign(MESSAGE))
    signed[at % len(signed)] ^= flip
    with pytest.raises(SecurityError):
        own.check(bytes(signed))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SecurityError):
        signer(SECRET).check(data)
    with pytest.raises(SecurityError):
        signer(SECRET).check(b"\x9a" + data)


def test_what_was_sealed_as_one_thing_is_nothing_else(own: Signer) -> None:
    for kind in (REQUEST, REPLY, ENTRY):
        sealed = own.seal(b"said", kind)
        assert own.unseal(sealed, kind) == b"said"
        for other in {REQUEST, REPLY, ENTRY} - {kind}:
            with pytest.raises(SecurityError, match="wrong"):
                own.unseal(sealed, other)
    with pytest.raises(SecurityError, match="periodic entry is not signed"):
        own.unseal(b"said", ENTRY)


def test_another_secret_is_not_trusted() -> None:
    with pytest.raises(SecurityError, match="security_trusted_keys"):
        signer("another secret of nobody").check(signer(SECRET).sign(MESSAGE))


def test_a_trusted_key_is_good_while_keys_are_changed() -> None:
    new = signer("the new secret of the team", SECRET)
    new.check(signer(SECRET).sign(MESSAGE))
    new.check(new.sign(MESSAGE))


def test_public_keys_check_and_do_not_sign() -> None:
    checker = signer(None, PUBLIC)
    checker.check(signer(PRIVATE).sign(MESSAGE))
    with pytest.raises(ImproperlyConfigured, match="sign with"):
        checker.sign(MESSAGE)


def test_keys_may_lie_in_files(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_text(PRIVATE)
    public.write_text(PUBLIC)
    signer(None, str(public)).check(signer(str(private)).sign(MESSAGE))


def test_no_key_means_no_signatures() -> None:
    assert make_signer(None) is None
    assert make_signer("") is None


def test_bad_keys_are_refused_with_what_to_do(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    wrong = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    for key, words in (
        ("short", "16 or more"),
        (str(tmp_path / "missing.pem"), "cannot be read"),
        (wrong, "expected an Ed25519"),
        ("-----BEGIN PRIVATE KEY-----\nxxx\n-----END PRIVATE KEY-----\n", "not a private key"),
    ):
        with pytest.raises(ImproperlyConfigured, match=words):
            make_signer(key)
    with pytest.raises(ImproperlyConfigured, match="not a public key"):
        make_signer(None, ["-----BEGIN PUBLIC KEY-----\nxxx\n-----END PUBLIC KEY-----\n"])
