"""What ``app.connection()`` returns: code written for Celery opens one and hands it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.app.channel import Channel

__all__ = ["Connection"]


class Connection:
    """A place where messages are kept. It holds no socket but that of its channels: every part of fastq opens its own."""

    def __init__(self, app: FastQ, url: str | None = None) -> None:
        self.app = app
        self.url = url or app.broker_url
        self._default: Channel | None = None
        self._channels: list[Channel] = []

    def as_uri(self, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL, its password masked unless ``include_password``."""
        from fastq.transports import display_url  # lazy: only where it is shown

        return self.url if include_password else display_url(self.url)

    def info(self) -> dict[str, Any]:
        """Return where the broker is, without its password."""
        from fastq.transports import url_fields  # lazy: only where it is shown

        return url_fields(self.as_uri())

    def ensure_connection(
        self,
        errback: Callable[[BaseException, float], object] | None = None,
        max_retries: int | None = None,
        *args: Any,
        **options: Any,
    ) -> Connection:
        """Return when the broker has answered; OperationalError if it does not. ``errback``: called with that error and 0."""
        from fastq.exceptions import OperationalError  # lazy: only where it is asked for
        from fastq.transports import open_broker  # lazy: as above

        broker = open_broker(self.url, self.app.transport_options())
        try:
            broker.now_ms()
        except OperationalError as exc:
            if errback is not None:
                errback(exc, 0)
            raise
        finally:
            broker.close()
        return self

    def connect(self) -> Connection:
        """See whether the broker answers."""
        return self.ensure_connection()

    def channel(self) -> Channel:
        """Return what looks at queues, its caller's to close; at the latest it is closed with this."""
        from fastq.app.channel import Channel  # lazy: only where code asks for one

        opened = Channel(self.app, self.url)
        self._channels.append(opened)
        return opened

    @property
    def default_channel(self) -> Channel:
        """Return one such, always the same."""
        if self._default is None:
            self._default = self.channel()
        return self._default

    def close(self) -> None:
        """Close its channels; nothing else is open."""
        channels, self._channels, self._default = self._channels, [], None
        for channel in channels:
            channel.close()

    release = close

    def clone(self, **options: Any) -> Connection:
        return Connection(self.app, self.url)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()}>"
