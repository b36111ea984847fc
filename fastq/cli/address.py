"""The option type of ``--http``: where health and metrics are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastq.exceptions import ImproperlyConfigured
from fastq.worker.http.address import Address

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

__all__ = ["HTTPAddress"]


class HTTPAddress(ParamType):
    """``HOST:PORT``, ``:PORT`` or ``unix:PATH``."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(value)
        except ImproperlyConfigured as exc:
            self.fail(str(exc), param, ctx)
