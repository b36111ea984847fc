"""The protocol of a schedule that any number of beats share. The docstrings are the specification; the common rules of
``fastq.transports.base`` hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastq.records import Publication

__all__ = ["Edit", "Lead", "Listing", "Planned", "Tick", "Timetable"]


class Planned(NamedTuple):
    """One entry of a timetable, as it is kept."""

    name: str
    #: opaque to transports, see ``fastq.beat.definition``
    definition: bytes
    #: when its next tick is due, Unix ms on the broker's clock; 0: never again
    due_ms: int
    paused: bool = False
    #: number of its last edit; never given out twice
    edit: int = 0
    #: the tick that was dealt with last; 0: none was
    last_due_ms: int = 0
    #: when it was fired last
    last_run_ms: int = 0
    runs: int = 0


class Edit(NamedTuple):
    """A change of one entry. None leaves a part as it is; what the entry has done so far stays in any case."""

    name: str
    definition: bytes | None = None
    due_ms: int | None = None
    paused: bool | None = None
    #: the edit that this change is based on: it is refused if there was another one. 0: the entry must not be there; None: any
    seen: int | None = None
    remove: bool = False


class Tick(NamedTuple):
    """A tick to be fired: the entry must still have this edit and this due time."""

    name: str
    edit: int
    due_ms: int
    next_due_ms: int
    #: none: the tick is passed over, and does not count as a run
    publications: Sequence[Publication] = ()


class Lead(NamedTuple):
    """The answer to a beat that wants to lead."""

    leads: bool
    #: it did not lead before
    taken: bool
    #: for how long whoever leads has it, ms
    left_ms: int
    #: number of the last edit
    version: int
    now_ms: int
    #: the name of the beat that leads
    leader: str


class Listing(NamedTuple):
    """Entries of a timetable."""

    version: int
    #: how many there are in all
    total: int
    plans: Sequence[Planned]
    #: names of entries that were removed, as far as is remembered: whoever ends up with another number than ``total`` reads all
    removed: Sequence[str] = ()


class Timetable(Protocol):
    """What is to be sent when, shared by any number of beats. One application's timetable has one name (``scope``) in the store.

    Used by one thread. Connections are opened at the first call.
    """

    url: str

    def now_ms(self) -> int:
        """Return the broker's clock, Unix ms: this machine's clock plus the offset last seen (asks once if never seen)."""
        ...

    def entries(self, since: int = 0) -> Listing:
        """Return the entries edited after an edit, and which were removed after it; 0: all entries."""
        ...

    def get(self, names: Sequence[str]) -> list[Planned | None]: ...

    def edit(self, edits: Sequence[Edit]) -> list[int]:
        """Change entries, each in one step; return the number of each edit, 0 for those refused. Waiting beats are told."""
        ...

    def fire(self, by: str, ticks: Sequence[Tick]) -> list[bool]:
        """Fire ticks, each in one step: if its entry is there, not paused, and has this edit and this due time, publish (as
        ``Broker.publish`` does, waking who is idle), and note the next due time and the run; else nothing. Return which were fired.

        ``by`` is never used by two callers: a call of theirs that is repeated after a lost reply publishes nothing twice, and is
        answered as the first was. Several ticks of one entry are fired in order. A tick's messages are one call, however large.
        """
        ...

    def lead(self, name: str, lease_ms: int) -> Lead:
        """Take the lead for ``lease_ms`` if nobody has it, or keep it. Never waits."""
        ...

    def resign(self, name: str) -> None:
        """Give up the lead, if this beat has it, and tell those that wait."""
        ...

    def leader(self) -> str:
        """Return the name of the beat that leads, "" if none does."""
        ...

    def wait(self, timeout_s: float, interrupt: int) -> bool:
        """Sleep until an entry is edited, the leader resigns, the descriptor ``interrupt`` gets readable, or the time is over.

        Return True if something may have been edited or resigned since the last call: look again.
        """
        ...

    def close(self) -> None: ...
