"""A broker for tests of the supervisor's side: the protocol in dictionaries, with a switch for trouble."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fastq import _core
from fastq.exceptions import OperationalError
from fastq.records import DEAD, DONE, RETURN, Fetch, Fetched, Lease, Opening, Publication, Settled, Settlement
from fastq.transports.base import Wake

__all__ = ["FakeBroker", "message"]


def message(name: str = "tasks.add", deliveries: int = 0, id: str = "id", **options: object) -> bytes:
    """Write an envelope, marked as delivered so often before."""
    written = _core.encode(id, name, "application/x-msgpack", _core.encode_call((), {}), 1, None, 0, "inbox", options or None)
    return _core.remark(written, deliveries)


class FakeBroker:
    url = "fake://host"

    def __init__(self) -> None:
        self.down = False
        self._ticks = itertools.count(1)
        #: (queue, process) -> value; "condemned" is final
        self.leases: dict[tuple[str, str], str] = {}
        #: (queue, process) -> tag -> message, oldest first
        self.held: dict[tuple[str, str], dict[str, bytes]] = {}
        #: queue -> messages, head first
        self.ready: dict[str, list[bytes]] = {}
        self.dead: list[Settlement] = []
        self.done: list[Settlement] = []
        self.calls: list[str] = []
        self.old: list[Lease] = []
        #: what ``unpark`` answers, the last one first
        self.steps: list[bool] = []

    def lease(self, queue: str, process: str, *messages: bytes) -> list[str]:
        """Let a process hold messages; return their tags."""
        self.leases.setdefault((queue, process), "living")
        held = self.held.setdefault((queue, process), {})
        tags = [f"0:1:{len(held) + i}" for i in range(len(messages))]
        held.update(zip(tags, messages, strict=True))
        return tags

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise OperationalError("cannot connect to fake://host: refused")

    def now_ms(self) -> int:
        return 1_000

    def terminated(self, since: int = 0) -> tuple[int, dict[str, str]]:
        return 0, {}

    def unpark(self) -> bool:
        self._call("unpark")
        return bool(self.steps and self.steps.pop())

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        self._call("renew")
        for queue in queues:
            for process in processes:
                if self.leases.get((queue, process)) != "condemned":
                    self.leases[queue, process] = str(next(self._ticks))
        return list(self.old)

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        self._call("condemn")
        done = []
        for lease in leases:
            key = (lease.queue, lease.process)
            if lease.value == "" or self.leases.get(key) in (lease.value, "condemned"):
                self.leases[key] = "condemned"
                done.append(lease)
        return done

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        self._call("leased")
        return list(self.held.get((queue, process), {}).items())

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        self._call("release")
        held = self.held.pop((queue, process), {})
        self.ready[queue] = [marks.get(tag, sent) for tag, sent in held.items()] + self.ready.get(queue, [])
        if gone:
            self.leases.pop((queue, process), None)
        return len(held)

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        self._call("settle")
        skipped = []
        back: dict[str, list[bytes]] = {}
        for s in settlements:
            sent = self.held.get((s.queue, process), {}).pop(s.tag, None)
            if sent is None:
                skipped.append(s.tag)
            elif s.verdict == DEAD:
                self.dead.append(s)
            elif s.verdict == DONE:
                self.done.append(s)
            else:
                assert s.verdict == RETURN
                back.setdefault(s.queue, []).append(sent)
        for queue, messages in back.items():
            self.ready[queue] = messages + self.ready.get(queue, [])
        return Settled(tuple(skipped))

    def reserve(self, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
        raise NotImplementedError("a supervisor runs nothing")

    def publish(
        self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()
    ) -> None:
        raise NotImplementedError("a supervisor publishes nothing")

    def fetch(self, fetch: Fetch) -> Fetched:
        raise NotImplementedError("a supervisor fetches nothing")

    def wake(self, process: str) -> Wake:
        raise NotImplementedError("a supervisor is woken by nobody")

    def close(self) -> None:
        self.calls.append("close")
