"""Signed messages: a worker runs only what was sent by someone who has a key.

A signed message is an envelope with one element more, its last: a byte string of kind (1: HMAC-SHA256, RFC 2104; 2: Ed25519,
RFC 8032), key id (8 bytes) and signature. It covers every byte before it, so name, arguments, options and what follows the task
cannot be changed; the redelivery mark in front of a message is not covered, because brokers write it. Workers sign what they send
themselves: retries, follow-ups, bodies of chords.

What it does not do: a message that was seen can be put into a queue again, results are not signed, and nothing is encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable
from typing import Any

from fastq.exceptions import ImproperlyConfigured, SecurityError

__all__ = ["ENTRY", "REPLY", "REQUEST", "Signer", "make_signer"]

HMAC_SHA256, ED25519 = 1, 2
#: bytes of a signature, by kind
_SIZES = {HMAC_SHA256: 32, ED25519: 64}
_KEY_ID_BYTES = 8
#: characters below which a shared secret is refused: it could be guessed
MIN_SECRET_CHARS = 16

_PLAIN_HEAD, _SIGNED_HEAD = 0x99, 0x9A
_MARK = 0xC1
_BIN8 = 0xC4
#: what the signature of a control request, an answer to one, and an entry of a timetable covers first: none passes for another
REQUEST, REPLY, ENTRY = b"fastq control request\n", b"fastq control reply\n", b"fastq timetable entry\n"
#: kind -> (what it is, what is done with signed ones only)
_SEALED = {
    REQUEST: ("request", "this worker obeys signed requests only (security_key is set)"),
    REPLY: ("answer", "with security_key only signed ones are believed"),
    ENTRY: ("periodic entry", "with security_key only signed ones are sent"),
}


class Signer:
    """Sign with one key, check with several. Immutable; any thread."""

    def __init__(
        self,
        kind: int,
        key_id: bytes,
        sign: Callable[[bytes], bytes] | None,
        checks: dict[tuple[int, bytes], Callable[[bytes, bytes], bool]],
    ) -> None:
        self._kind = kind
        self._key_id = key_id
        self._sign = sign
        self._checks = checks
        size = _SIZES[kind]
        self._head = bytes([_BIN8, 1 + _KEY_ID_BYTES + size, kind]) + key_id

    @property
    def signs(self) -> bool:
        """Say whether there is a key to sign with, not only keys to check with."""
        return self._sign is not None

    def sign(self, message: bytes) -> bytes:
        """Return the message with its signature; a signed one as it is. ImproperlyConfigured where there is no key to sign with."""
        if message[0] != _PLAIN_HEAD:
            return message
        if self._sign is None:
            raise ImproperlyConfigured(
                "messages must be signed, but only keys to check with are set: security_key names none to sign with"
            )
        covered = b"\x9a" + message[1:] + self._head
        return covered + self._sign(covered)

    def check(self, message: bytes) -> None:
        """Raise SecurityError unless the message carries a good signature of a trusted key."""
        start = 2 if message[:1] == b"\xc1" else 0
        if message[start : start + 1] != b"\x9a":
            raise SecurityError("the message is not signed, and this worker runs signed messages only (security_key is set)")
        for kind, size in _SIZES.items():
            head = 3 + _KEY_ID_BYTES
            at = len(message) - size - head
            if at <= start or message[at : at + 3] != bytes([_BIN8, 1 + _KEY_ID_BYTES + size, kind]):
                continue
            check = self._checks.get((kind, message[at + 3 : at + head]))
            if check is None:
                raise SecurityError(
                    f"the message is signed with the key {message[at + 3 : at + head].hex()}, which is not trusted here: "
                    "add it to security_trusted_keys"
                )
            if not check(message[start : at + head], message[at + head :]):
                raise SecurityError("the signature of the message is wrong: it was changed on its way, or forged")
            return
        raise SecurityError("the message has no signature that this version can read")

    def seal(self, said: bytes, kind: bytes = REQUEST) -> bytes:
        """Return a control request, an answer (REPLY) or a periodic entry (ENTRY) with its signature behind it.

        ImproperlyConfigured where there is no key to sign with.

        A signed task is no signed request, nor the other way round: what is covered begins with other bytes.
        """
        if self._sign is None:
            raise ImproperlyConfigured(
                f"a {_SEALED[kind][0]} must be signed, but only keys to check with are set: security_key names none to sign with"
            )
        return said + self._head + self._sign(kind + said + self._head)

    def unseal(self, sealed: bytes, kind: bytes = REQUEST) -> bytes:
        """Return what was sealed as such without its signature; SecurityError unless that is a good one of a trusted key."""
        what, rule = _SEALED[kind]
        for number, size in _SIZES.items():
            head = 3 + _KEY_ID_BYTES
            at = len(sealed) - size - head
            if at < 0 or sealed[at : at + 3] != bytes([_BIN8, 1 + _KEY_ID_BYTES + size, number]):
                continue
            check = self._checks.get((number, sealed[at + 3 : at + head]))
            if check is None:
                raise SecurityError(
                    f"the {what} is signed with the key {sealed[at + 3 : at + head].hex()}, which is not trusted here: "
                    "add it to security_trusted_keys"
                )
            if not check(kind + sealed[: at + head], sealed[at + head :]):
                raise SecurityError(f"the signature of the {what} is wrong: it was changed on its way, or forged")
            return sealed[:at]
        raise SecurityError(f"the {what} is not signed, and {rule}")


def make_signer(key: str | None, trusted: Iterable[str] = ()) -> Signer | None:
    """Return what signs and checks, None if no key is set.

    ``key``: a shared secret (HMAC), or an Ed25519 private key in PEM, or the path of a file with one. ``trusted``: further keys
    whose signatures are good: shared secrets, or Ed25519 public keys in PEM or their paths. Ed25519 needs the package
    ``cryptography``.
    """
    trusted = [*trusted]
    if not key and not trusted:
        return None
    checks: dict[tuple[int, bytes], Callable[[bytes, bytes], bool]] = {}
    kind, key_id = HMAC_SHA256, bytes(_KEY_ID_BYTES)
    sign: Callable[[bytes], bytes] | None = None
    if key:
        kind, key_id, sign, check = _private("security_key", key)
        checks[kind, key_id] = check
    for other in trusted:
        other_kind, other_id, check = _public("security_trusted_keys", other)
        checks[other_kind, other_id] = check
        if not key:
            kind, key_id = other_kind, other_id
    return Signer(kind, key_id, sign, checks)


def _text(setting: str, key: str) -> str:
    """Return a key, read from its file if it is the path of one."""
    # a secret in base64 may hold slashes
    if "\n" in key or len(key) > 1024 or not (key.endswith((".pem", ".key", ".pub")) or os.path.isfile(key)):
        return key
    try:
        with open(key, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise ImproperlyConfigured(f"{setting} looks like the path of a key file, but it cannot be read: {exc}") from exc


_Check = Callable[[bytes, bytes], bool]


def _secret(setting: str, text: str) -> tuple[bytes, Callable[[bytes], bytes], _Check]:
    if len(text.strip()) < MIN_SECRET_CHARS:
        raise ImproperlyConfigured(
            f"{setting} is a secret of {len(text.strip())} characters, expected {MIN_SECRET_CHARS} or more "
            "(for example from `python -c 'import secrets; print(secrets.token_hex(32))'`)"
        )
    secret = text.strip().encode()

    def sign(data: bytes) -> bytes:
        return hmac.digest(secret, data, "sha256")

    def check(data: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(sign(data), signature)

    return hashlib.sha256(b"fastq key id " + secret).digest()[:_KEY_ID_BYTES], sign, check


def _private(setting: str, key: str) -> tuple[int, bytes, Callable[[bytes], bytes], _Check]:
    text = _text(setting, key)
    if "-----BEGIN" not in text:
        return HMAC_SHA256, *_secret(setting, text)
    serialization, ed25519 = _cryptography()
    try:
        private = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as exc:
        raise ImproperlyConfigured(f"{setting} is not a private key that can be read (PEM without a password): {exc}") from exc
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise ImproperlyConfigured(f"{setting} is a {type(private).__name__}, expected an Ed25519 private key")
    key_id, check = _ed25519_check(private.public_key())
    return ED25519, key_id, private.sign, check


def _public(setting: str, key: str) -> tuple[int, bytes, _Check]:
    text = _text(setting, key)
    if "-----BEGIN" not in text:
        key_id, _, check = _secret(setting, text)
        return HMAC_SHA256, key_id, check
    serialization, ed25519 = _cryptography()
    try:
        public = serialization.load_pem_public_key(text.encode())
    except (ValueError, TypeError) as exc:
        raise ImproperlyConfigured(f"{setting} holds what is not a public key that can be read (PEM): {exc}") from exc
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise ImproperlyConfigured(f"{setting} holds a {type(public).__name__}, expected an Ed25519 public key")
    return ED25519, *_ed25519_check(public)


def _ed25519_check(public: Any) -> tuple[bytes, _Check]:
    from cryptography.exceptions import InvalidSignature  # lazy: only where Ed25519 keys are used

    def check(data: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return hashlib.sha256(public.public_bytes_raw()).digest()[:_KEY_ID_BYTES], check


def _cryptography() -> tuple[Any, Any]:
    try:
        # lazy: an extra, and 30 ms
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ImproperlyConfigured(
            "Ed25519 keys need the package cryptography: pip install 'fastq[security]'. A shared secret needs nothing."
        ) from None
    return serialization, ed25519
