"""Celery's way to ask for TLS, a setting beside the URL, put into the URL, which is fastq's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastq.exceptions import ImproperlyConfigured

__all__ = ["secured"]

#: what OpenSSL's constants CERT_NONE, CERT_OPTIONAL and CERT_REQUIRED mean
_REQUIREMENTS = ("none", "optional", "required")
_PARAMETERS = frozenset({
    "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_ciphers",
    "ssl_check_hostname",
})  # fmt: skip
#: kombu's names for other transports
_ALIASES = {"cert_reqs": "ssl_cert_reqs", "ca_certs": "ssl_ca_certs", "certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}


def secured(url: str, tls: bool | Mapping[str, Any] | None, setting: str) -> str:
    """Return the URL with TLS as ``setting`` asks for it. What the URL itself says wins; other schemes than Redis' stay."""
    scheme, separator, rest = url.partition("://")
    if not tls or scheme not in ("redis", "rediss", "sentinel"):
        return url
    place, _, query = rest.partition("?")
    there = {part.partition("=")[0] for part in query.split("&")}
    added: list[str] = []
    # lazy: only where TLS is asked for
    from urllib.parse import quote

    for key, value in tls.items() if isinstance(tls, Mapping) else ():
        name = _ALIASES.get(key, key)
        if name not in _PARAMETERS:
            raise ImproperlyConfigured(f"{setting}[{key!r}] is not known; expected some of {', '.join(sorted(_PARAMETERS))}")
        if value is None or name in there:
            continue
        if name == "ssl_cert_reqs" and isinstance(value, int) and 0 <= value < len(_REQUIREMENTS):
            value = _REQUIREMENTS[value]
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        added.append(f"{name}={quote(text, safe='/')}")
    if scheme == "sentinel" and "ssl" not in there:
        added.append("ssl=true")  # to the servers: how to speak to the sentinels is among the transport options
    query = "&".join(filter(None, (query, *added)))
    return f"{'sentinel' if scheme == 'sentinel' else 'rediss'}{separator}{place}" + (f"?{query}" if query else "")
