"""Open what a supervisor needs of the broker and the result store, with timeouts short enough for the renewal of leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastq.security import make_signer
from fastq.transports.base import Backend, Broker
from fastq.worker.hello import Hello
from fastq.worker.reaper import Reaper

if TYPE_CHECKING:
    from fastq.transports import TransportOptions

__all__ = ["backend_opener", "open_store", "transport_options"]


def open_store(hello: Hello) -> tuple[Broker, Reaper]:
    """Open the broker for a supervisor, with timeouts short enough for its renewals, and make its reaper."""
    # lazy: what transport it is is only known once the hello has come
    from fastq import transports

    signer = make_signer(hello.security_key, hello.security_trusted_keys)
    broker = transports.open_broker(hello.broker_url, transport_options(hello), signer)

    def encode(exc: BaseException) -> tuple[str, bytes, str | None]:
        # lazy: needed when a task has killed its process for the last time, which most workers never see
        from fastq.remote import encode_exception
        from fastq.serialization import Serializers

        name = hello.result_serializer
        return encode_exception(exc, Serializers(task=name, result=name, accept=(name,)))

    reaper = Reaper(
        broker,
        backend_opener(hello),
        max_deliveries=hello.max_deliveries,
        run_once=hello.run_once,
        unstored=hello.unstored,
        encode=encode,
    )
    return broker, reaper


def backend_opener(hello: Hello) -> Callable[[], Backend | None]:
    """Return what opens the result store at its first call: few supervisors ever need it. None: results are disabled."""
    opened: list[Backend] = []

    def open_backend() -> Backend | None:
        # lazy: as above
        from fastq import transports

        if hello.backend_url.startswith("disabled:"):
            return None
        if not opened:
            options = transport_options(hello)
            own = options if hello.backend_extra is None else replace(options, extra=hello.backend_extra)
            opened.append(transports.open_backend(hello.backend_url, own))
        return opened[0]

    return open_backend


def transport_options(hello: Hello) -> TransportOptions:
    """Return the application's options with timeouts short enough for renewals."""
    # lazy: as above
    from fastq import transports

    interval_s = hello.lease_ms / 3000
    values: dict[str, Any] = dict(hello.transport)
    given = transports.TransportOptions(**values)
    return replace(
        given,
        connect_timeout_s=min(given.connect_timeout_s, interval_s * 0.4),
        socket_timeout_s=min(given.socket_timeout_s, interval_s * 0.8),
    )
