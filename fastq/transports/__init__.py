"""Find the transport for a URL. Each technology is one module, imported only when a URL names it.

A technology's module has four functions, all taking ``(url, options)``: ``open_broker``, ``open_backend``, ``open_inspector`` and
``open_channel``; ``open_timetable(url, options, scope)``; and where there is something to examine, ``open_examiner(url, options,
scope)``. They parse the URL (ImproperlyConfigured) but connect to nothing. And where its client library is better not imported
whole, ``preload(url)``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastq.exceptions import ImproperlyConfigured
from fastq.transports.base import Backend, Broker, Examiner, Finding, Inbox, Inspector, Scope, TransportOptions, Wake
from fastq.transports.channel import Channel
from fastq.transports.timetable import Timetable

if TYPE_CHECKING:
    from fastq.security import Signer

__all__ = [
    "Backend",
    "Broker",
    "Channel",
    "Examiner",
    "Finding",
    "Inbox",
    "Inspector",
    "Scope",
    "Timetable",
    "TransportOptions",
    "Wake",
    "display_url",
    "open_backend",
    "open_broker",
    "open_channel",
    "open_examiner",
    "open_inspector",
    "open_timetable",
    "preload",
    "scheme_of",
    "url_fields",
]


@dataclass(frozen=True, slots=True)
class _Technology:
    module: str
    #: the client libraries it needs, as imported
    needs: tuple[str, ...] = ()
    #: the extra that installs them
    extra: str = ""


_REDIS = _Technology("fastq.transports.redis", ("redis",), "redis")

#: URL scheme -> where it is implemented
_SCHEMES = {
    "redis": _REDIS,
    "rediss": _REDIS,
    "redis+socket": _REDIS,
    "unix": _REDIS,
    "sentinel": _REDIS,
    "sentinel+tls": _REDIS,
    "sqlite": _Technology("fastq.transports.sqlite"),
    "memory": _Technology("fastq.transports.memory"),
    "django-db": _Technology("fastq.contrib.django_results.transport", ("django",), "django"),
}

#: query parameters whose values are never shown
_SECRET = re.compile("password|secret|token", re.IGNORECASE)

#: between the URLs of several sentinels
_NEXT_URL = re.compile(r";(?=sentinel(?:\+tls)?://)", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """Return the URL's scheme in lower case; ImproperlyConfigured if fastq knows no transport of that name."""
    scheme, mark, _ = url.partition("://")
    scheme = scheme.lower()
    if scheme == "django-db":
        return scheme  # complete without "://", as Celery's users write it
    known = ", ".join(f"{name}://" for name in _SCHEMES)
    if not mark:
        raise ImproperlyConfigured(f"{display_url(url)!r} is not a transport URL: expected one that starts with {known}.")
    if scheme not in _SCHEMES:
        import difflib  # lazy: only where a name is wrong

        close = difflib.get_close_matches(scheme, _SCHEMES, n=1)
        meant = f" Did you mean {close[0]}://?" if close else ""
        raise ImproperlyConfigured(f"No transport for {scheme}:// (in {display_url(url)!r}); known are {known}.{meant}")
    return scheme


def open_broker(url: str, options: TransportOptions, signer: Signer | None = None) -> Broker:
    """Return a Broker for the URL; it connects at its first call. ``signer``: messages are signed on their way in."""
    broker = cast(Broker, _module(url).open_broker(url, options))
    if signer is None:
        return broker
    from fastq.transports.signed import SignedBroker  # lazy: only where messages are signed

    return cast(Broker, SignedBroker(broker, signer))


def open_backend(url: str, options: TransportOptions) -> Backend:
    """Return a Backend for the URL; it connects at its first call."""
    return cast(Backend, _module(url).open_backend(url, options))


def open_inspector(url: str, options: TransportOptions) -> Inspector:
    """Return an Inspector for the URL; it connects at its first call."""
    return cast(Inspector, _module(url).open_inspector(url, options))


def open_channel(url: str, options: TransportOptions) -> Channel:
    """Return a Channel for the URL; it connects at its first call."""
    return cast(Channel, _module(url).open_channel(url, options))


def open_timetable(url: str, options: TransportOptions, scope: str, signer: Signer | None = None) -> Timetable:
    """Return the timetable of a name; it connects at its first call. ``signer``: messages that it publishes are signed."""
    timetable = cast(Timetable, _module(url).open_timetable(url, options, scope))
    if signer is None:
        return timetable
    from fastq.transports.signed import SignedTimetable  # lazy: only where messages are signed

    return cast(Timetable, SignedTimetable(timetable, signer))


def open_examiner(url: str, options: TransportOptions, scope: Scope) -> Examiner | None:
    """Return an Examiner for the URL, None where that technology leaves nothing to examine."""
    opening = getattr(_module(url), "open_examiner", None)
    return None if opening is None else cast(Examiner, opening(url, options, scope))


def preload(url: str) -> None:
    """Import what the URL's transport will need, without connecting (a nursery does so once for all its forks)."""
    module = _module(url)
    if hasattr(module, "preload"):
        module.preload(url)
    else:
        for library in _SCHEMES[scheme_of(url)].needs:
            importlib.import_module(library)


def display_url(url: str) -> str:
    """Return the URL as it may be shown: passwords replaced by ``**``."""
    if url.lower().startswith("sentinel") and len(parts := re.split(_NEXT_URL, url)) > 1:
        return ";".join(map(display_url, parts))
    scheme, mark, rest = url.partition("://")
    if not mark:
        # Not a URL: it may still carry a password, so what stands before the last @ is not shown.
        return f"**@{url.rpartition('@')[2]}" if "@" in url else url
    rest, query_mark, query = rest.partition("?")
    # The last @ before the path ends the credentials; a password with a raw / or @ in it must not leak either.
    credentials, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        credentials = f"{user}:**" if colon else "**" if scheme.lower() not in ("unix", "redis+socket") else user
    if query:
        pairs = parse_qsl(query, keep_blank_values=True)
        query = urlencode([(name, "**" if _SECRET.search(name) else value) for name, value in pairs], safe="*/:")
    return f"{scheme}://{credentials}{at}{place}{query_mark}{query}"


def url_fields(url: str) -> dict[str, Any]:
    """Return where a URL as for display (no password) leads, with Celery's names; of several Sentinels the first."""
    parts = urlsplit(url.partition(";")[0])
    try:
        port = parts.port
    except ValueError:
        port = None
    return {
        "hostname": parts.hostname,
        "userid": parts.username or None,
        "virtual_host": parts.path.removeprefix("/") or None,
        "port": port,
        "transport": parts.scheme,
    }


def _module(url: str) -> Any:
    technology = _SCHEMES[scheme_of(url)]
    for library in technology.needs:
        if importlib.util.find_spec(library) is None:
            raise ImproperlyConfigured(
                f"{display_url(url)!r} needs the Python package {library!r}, which is not installed: "
                f"pip install 'fastq[{technology.extra}]'"
            )
    return importlib.import_module(technology.module)
