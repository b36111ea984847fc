"""Send events: ``app.events.Dispatcher``, ``Task.send_event``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fastq._core import packb
from fastq.exceptions import EncodeError

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Dispatcher", "EventDispatcher"]


class Dispatcher:
    """Send events of one's own. They go out from a thread, a moment later; none waits for the broker, and what cannot be sent is
    dropped. Nothing is sent while nobody listens."""

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: FastQ | None = None,
        serializer: Any = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Any = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], object] | None = None,
    ) -> None:
        """``groups``: only events whose type begins with one of these words and a dash are sent. What is accepted and not used:
        connection, channel, serializer, delivery_mode and how it is buffered."""
        if app is None:
            from fastq.shared import get_current_app  # lazy: only where no application is given

            app = get_current_app()
        self.app = app
        self.connection = connection
        self.outbox = app.events.outbox
        self.hostname = hostname or self.outbox.node
        self.enabled = enabled
        self.groups = frozenset(groups or ())
        self.on_enabled: set[Callable[[], object]] = set()
        self.on_disabled: set[Callable[[], object]] = set()

    def enable(self) -> None:
        self.enabled = True
        for call in self.on_enabled:
            call()

    def disable(self) -> None:
        if self.enabled:
            self.enabled = False
            for call in self.on_disabled:
                call()

    def send(
        self,
        type: str,
        blind: bool = False,
        retry: bool = True,
        retry_policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Send an event such as ``task-progress`` with its fields; other than plain values become their ``repr``.

        ``blind``, ``retry`` and ``retry_policy`` are accepted: events are never repeated.
        """
        if not isinstance(type, str) or not type:
            raise ValueError(f"an event needs a type such as 'task-progress', not {type!r}")
        if not self.enabled or (self.groups and type.partition("-")[0] not in self.groups):
            return
        self.publish(type, fields)

    def publish(self, type: str, fields: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Send an event whatever groups there are."""
        plain = {key: value if _is_plain(value) else repr(value) for key, value in fields.items()}
        self.outbox.tell(type, **{"hostname": self.hostname, **plain})

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Wait, for a second at most, until what was sent has left this process."""
        self.outbox.flush()

    def close(self) -> None:
        """The connection is the process' own: nothing to close."""

    def __enter__(self) -> Dispatcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _is_plain(value: object) -> bool:
    """Say whether an event can hold a value: one that cannot must not spoil the others of its batch."""
    if value is None or isinstance(value, bool | float):
        return True
    try:
        packb(value)
    except EncodeError:
        return False
    return True


#: Celery's name
EventDispatcher = Dispatcher
