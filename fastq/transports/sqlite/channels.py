"""The two channels that wait on a datagram socket: a worker's wake and a producer's inbox."""

from __future__ import annotations

import time

from fastq import _core
from fastq.exceptions import OperationalError
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Receiver, decode_results
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteInbox", "SQLiteWake"]

#: seconds between two looks at ``data_version`` (2 us each) while waiting: only a note in ``missed`` that no datagram announced
#: is found this way, so the looks become rarer
FIRST_LOOK_S = 0.02
LONGEST_LOOK_S = 0.2
#: results after which ``read`` returns although more may have come
READ_RESULTS = 10_000


class SQLiteWake:
    """``Wake`` on a datagram socket. A lost wake is repeated by ``renew``."""

    def __init__(self, database: Connection, process: str) -> None:
        self._database = database
        self._receiver = Receiver(process)
        self._name = process.encode("utf-8", "surrogatepass")
        self._identity = ""

    def open(self) -> None:
        # Any reading call opens the file, and opens it again if it was replaced.
        self._database.data_version()
        if self._identity != self._database.identity:
            self._receiver.close()
        self._identity = self._database.identity
        self._receiver.open(self._identity)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def drain(self) -> bool:
        woken = False
        while (data := self._receiver.receive()) is not None:
            woken = woken or data == self._name
        return woken

    def check(self) -> None:
        self._receiver.fileno()
        self._database.data_version()
        if self._identity != self._database.identity:
            raise OperationalError(f"{self._database.path} was replaced by another file: wakes would go to another address.")

    def close(self) -> None:
        self._receiver.close()


class SQLiteInbox:
    """``Inbox`` on a datagram socket. Its queue is short (10 datagrams by default on Linux); what did not fit is noted in the file
    and found there. When even the notes were too many, ``read`` raises OperationalError, and ``open`` starts afresh."""

    def __init__(self, target: Target, name: str, *, timeout_s: float) -> None:
        self._database = Connection(target, timeout_s=timeout_s)
        self._receiver = Receiver(name)
        self._name = name
        self._identity = ""
        self._version = -1
        self._look = False

    def open(self) -> None:
        self._version = self._database.data_version()
        if self._identity != self._database.identity:
            self._receiver.close()
        self._identity = self._database.identity
        self._receiver.open(self._identity)
        # The caller reads everything now: what was missed before is of no interest.
        self._take_notes()
        self._look = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def read(self, timeout_s: float | None) -> list[tuple[str, bytes | None]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        look_s = FIRST_LOOK_S
        while True:
            results = self._missed() if self._look or self._database.data_version() != self._version else []
            while len(results) < READ_RESULTS and (data := self._receiver.receive()) is not None:
                results += decode_results(data, self._name)
                # The queue may have been full: look before the next wait.
                self._look = True
            if results:
                return results
            left_s = look_s if deadline is None else min(look_s, deadline - time.monotonic())
            if left_s <= 0:
                return []
            self._receiver.wait(left_s)
            look_s = min(look_s * 1.5, LONGEST_LOOK_S)

    def _missed(self) -> list[tuple[str, bytes | None]]:
        """Return the results that senders have noted, to be read from the backend."""
        self._look = False
        self._version = self._database.data_version()
        if self._identity != self._database.identity:
            raise OperationalError(f"{self._database.path} was replaced by another file.")
        missed: list[tuple[str, bytes | None]] = []
        for ids in self._take_notes():
            if ids is None:
                raise OperationalError(f"The inbox {self._name} has missed too many results: all that are waited for must be read.")
            missed += [(id, None) for id in _core.unpackb(ids)]
        return missed

    def _take_notes(self) -> list[bytes | None]:
        if not self._database.read("SELECT 1 FROM missed WHERE inbox = ? LIMIT 1", (self._name,)):
            return []
        with self._database as sql:
            return [ids for (ids,) in sql.execute("DELETE FROM missed WHERE inbox = ? RETURNING ids", (self._name,)).fetchall()]

    def close(self) -> None:
        self._receiver.close()
        self._database.shut()
