"""The technology ``django-db`` for ``fastq.transports``: results only."""

from __future__ import annotations

from typing import NoReturn

from fastq.contrib.django_results.backend import DjangoBackend
from fastq.exceptions import ImproperlyConfigured
from fastq.transports.base import TransportOptions

__all__ = ["open_backend", "open_broker", "open_channel", "open_inspector"]


def open_backend(url: str, options: TransportOptions) -> DjangoBackend:
    """Return the backend on ``django-db``, or on ``django-db://alias``: another database of the project than its routers choose."""
    alias = url.partition("://")[2].strip("/")
    if "/" in alias or "?" in alias:
        raise ImproperlyConfigured(f"{url!r}: expected django-db, or django-db://alias with the name of a database in DATABASES")
    return DjangoBackend(url, alias, options)


def open_broker(url: str, options: TransportOptions) -> NoReturn:
    raise ImproperlyConfigured(_ONLY_RESULTS.format(url))


def open_inspector(url: str, options: TransportOptions) -> NoReturn:
    raise ImproperlyConfigured(_ONLY_RESULTS.format(url))


def open_channel(url: str, options: TransportOptions) -> NoReturn:
    raise ImproperlyConfigured(_ONLY_RESULTS.format(url))


_ONLY_RESULTS = "{!r} keeps results only (result_backend); for messages set broker_url to redis:// or sqlite://"
