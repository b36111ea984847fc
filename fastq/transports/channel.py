"""The protocol of broadcast and reply, of what nodes say of themselves, and of events. The docstrings are the specification; the
common rules of ``fastq.transports.base`` hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Beat", "Channel", "Ear", "NodeRecord"]


class Ear(Protocol):
    """A subscription to what is said under one name, in order. Used by one thread."""

    def open(self) -> None:
        """Subscribe, and return when that is confirmed: what is said from now on is heard."""
        ...

    def fileno(self) -> int:
        """Return a descriptor to select on. It changes after a reconnect."""
        ...

    def read(self, timeout_s: float | None) -> list[bytes]:
        """Wait for messages and return all that have come; [] after the timeout (0: do not wait).

        Raises OperationalError when the connection is gone; ``open`` subscribes again.
        """
        ...

    def check(self) -> None:
        """Probe the connection (once per lease while nothing is said, or it may be dead unnoticed); OperationalError if it is.

        May wait for an answer, for ``socket_timeout_s`` at most. Then ``read(0)``: a message may have come meanwhile, and makes
        the descriptor readable no more.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What a node has last said of itself."""

    #: opaque to transports: a MessagePack map, see ``fastq.worker.nodeinfo``
    info: bytes
    #: how long ago, on the broker's clock
    age_ms: int


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a node's heartbeat."""

    now_ms: int
    #: somebody listens to events
    listened: bool


class Channel(Protocol):
    """Broadcast and reply, what nodes say of themselves, and the stream of events. Nothing here is on the hot path of a task.

    Payloads are opaque bytes. Several threads may call, except on an ``Ear``.
    """

    url: str

    # --- control ---

    def broadcast(self, message: bytes) -> int:
        """Say something to every node that listens now; return how many those are. Nothing is kept for later ones."""
        ...

    def ear(self, node: str) -> Ear:
        """Return the subscription of a node to what is broadcast (not yet open)."""
        ...

    def reply(self, to: str, payload: bytes) -> None:
        """Answer who asked, under the name its request gives; nobody may be there any more."""
        ...

    def replies(self, name: str) -> Ear:
        """Return the subscription to the answers to ``name`` (not yet open). Open it before asking."""
        ...

    # --- nodes ---

    def beat(self, node: str, info: bytes, expires_ms: int) -> Beat:
        """Keep what a node says of itself until its next beat, for ``expires_ms`` at most."""
        ...

    def leave(self, node: str) -> None:
        """Forget a node that ends."""
        ...

    def nodes(self) -> dict[str, NodeRecord]:
        """Return the nodes whose last beat has not expired, by name."""
        ...

    # --- events ---

    def send_events(self, batches: Sequence[bytes], *, keep: int, expires_s: int) -> None:
        """Append batches of events to the stream, which keeps about the last ``keep`` and vanishes ``expires_s`` after the last."""
        ...

    def events(self, after: str, timeout_s: float, n: int = 1000) -> list[tuple[str, bytes]]:
        """Return (position, batch) of up to ``n`` batches behind a position, waiting for the first; "": those from now on
        (then an empty answer may carry one pair of the position to go on from and an empty batch). A reader slower than the
        stream's cap finds a gap: positions rise, but what was cut off is not told."""
        ...

    def listen(self, name: str, expires_s: float) -> None:
        """Say that events are listened to, under a name of one's own; repeat before it expires. 0: not any more."""
        ...

    def listened(self) -> bool:
        """Say whether anybody has said so: what ``beat`` answers, for those who are no node."""
        ...

    def close(self) -> None: ...
