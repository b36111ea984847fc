"""Look for what is wrong on a Redis server, and for what was left behind there. The parts: server, keys, queues, joins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from fastq.exceptions import OperationalError
from fastq.records import Paused
from fastq.transports.base import Finding, Scope, TransportOptions
from fastq.transports.judging import TimetableSeen, counted, judge_pauses, judge_timetable
from fastq.transports.redis import health, pausing, verdicts
from fastq.transports.redis.address import parse
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.leftovers import Mender, ownerless, unreferenced
from fastq.transports.redis.queue_look import findings, look, worth_another_look
from fastq.transports.redis.scan import Scan
from fastq.transports.redis.timetable import RedisTimetable

__all__ = ["RedisExaminer"]

#: looks at a queue, or at what seems to have no owner, before something is reported that may only be on its way
LOOKS = 3


class RedisExaminer:
    """An Examiner of one Redis server."""

    def __init__(self, url: str, options: TransportOptions, scope: Scope) -> None:
        self.address = parse(url, options.extra)
        self.server = f"Redis at {self.address.display}"
        self.looked = 0
        self.queues: list[str] = []
        self._url = url
        self._options = options
        self._scope = scope
        self._keys = Keys(options.prefix)
        self._connection = Connection(self.address, options, "doctor")
        self._mender: Mender | None = None

    def __repr__(self) -> str:
        return f"<RedisExaminer {self.address.display}>"

    def examine(self) -> Iterator[Finding]:
        try:
            yield from self._examine()
        except OperationalError as error:
            refused = "refused the login" in str(error)
            yield Finding(
                "error",
                "login-refused" if refused else "server-trouble",
                self.address.display,
                str(error).rstrip("."),
                "put the right user and password into the URL" if refused else "look again when that has been put right",
            )

    def _examine(self) -> Iterator[Finding]:
        connection, scope = self._connection, self._scope
        try:
            connection.call([("PING",)])
        except OperationalError as error:
            if health.forbidden(error) or "refused the login" in str(error):
                raise
            yield Finding(
                "error",
                "unreachable",
                self.address.display,
                str(error).rstrip("."),
                "start the server, or correct the URL (fastq config broker_url shows where it comes from)",
            )
            return
        seen = health.ask(connection, self.address.display)
        self.server = " ".join(filter(None, (seen.name, seen.version))) + f" at {self.address.display}"
        yield from verdicts.findings(seen, messages=scope.messages)
        if seen.info.get("loading") == "1":
            return
        scan = Scan(connection, self._keys, self._options, scope)
        yield from scan.run()
        self.looked = scan.looked
        mender = self._mender = Mender(connection, self._keys, self._url, self._options)
        mender.without_ttl = scan.without_ttl
        if scope.messages:
            declared = [name for name in scope.declared if not scope.queues or name in scope.queues]
            self.queues = sorted({*scan.queues, *declared, *scope.queues})
            usable = [queue for queue in self.queues if queue not in scan.unusable]
            paused, now_ms = self._paused(connection)
            for queue in usable:
                yield from self._queue(queue, queue in declared, paused.rests(queue), mender)
            parked = {queue: counts for queue in usable if (counts := pausing.count(connection, self._keys.queue(queue)))}
            yield from judge_pauses(paused, parked, now_ms)
            yield from self._ownerless(scan, mender)
            for timetable in sorted(scan.timetables):
                yield from self._timetable(timetable)

    def _paused(self, connection: Connection) -> tuple[Paused, int]:
        """Return what is paused, and the server's time (ms)."""
        ((seconds, us),) = connection.call([("TIME",)])
        now_ms = int(seconds) * 1000 + int(us) // 1000
        try:
            return pausing.read(connection.call([("HGETALL", self._keys.paused)])[0]), now_ms
        except (OperationalError, ValueError):  # a key of another type, or with other fields: that has been told
            return Paused(), now_ms

    def _queue(self, queue: str, declared: bool, paused: bool, mender: Mender) -> Iterator[Finding]:
        def judged() -> Iterator[Finding]:
            found = look(self._connection, self._keys, queue, self._scope.limit)
            return findings(found, self._options, declared=declared, paused=paused)

        first = list(judged())
        for _ in range(LOOKS - 1):
            if not any(map(worth_another_look, first)):
                break
            again = {(one.code, one.subject) for one in judged()}
            first = [one for one in first if not worth_another_look(one) or (one.code, one.subject) in again]
        if any(map(worth_another_look, first)):
            mender.queues.append(queue)
        yield from first

    def _timetable(self, name: str) -> Iterator[Finding]:
        """Judge a timetable, unless it has more entries than may be looked at, or keys of another type: that has been told."""
        states = self._keys.timetable(name, "states")
        if self._connection.call([("HLEN", states)])[0] > self._scope.limit:
            text = f"it has more than {self._scope.limit:,} entries, too many to see whether each is sent"
            yield Finding("note", "limit-reached", states, text, "raise --limit to see all")
            return
        with contextlib.closing(RedisTimetable(self._url, self._options, name)) as timetable:

            def look() -> TimetableSeen:
                return TimetableSeen(timetable.entries().plans, timetable.leader(), timetable.now_ms())

            try:
                found = list(judge_timetable(name, self._scope, look))
            except (OperationalError, ValueError):
                return
            yield from found

    def _ownerless(self, scan: Scan, mender: Mender) -> Iterator[Finding]:
        """Report hashes of leased messages without a lease, and joins that no message mentions."""
        for queue, process in scan.holders:
            if queue in scan.unusable:
                continue
            held = ownerless(self._connection, self._keys, queue, process)
            if held is None:
                continue
            mender.holders.append((queue, process))
            text = f"this process has no lease, and holds {counted(held, 'message')}"
            yield Finding(
                "error" if held else "warning",
                "ownerless-key",
                self._keys.queue(queue).leased(process),
                text if held else "this process has no lease; nothing is left in it",
                "run fastq doctor --fix: messages go back to their queue, and the key goes",
            )
        if not scan.joins:
            return
        usable = [queue for queue in scan.queues if queue not in scan.unusable]
        left = scan.joins
        for _ in range(LOOKS):
            left, whole = unreferenced(self._connection, self._keys, usable, left, self._scope.limit)
            if not whole:
                yield Finding(
                    "note",
                    "joins-not-checked",
                    f"{len(scan.joins)} joins",
                    f"more than {self._scope.limit:,} messages wait, too many to see whether each open chord still has members",
                    "look again when the queues are shorter, or raise --limit",
                )
                return
            if not left:
                return
        yield from _joins(self._keys, left)

    def mend(self) -> list[str]:
        return [] if self._mender is None else self._mender.mend(RedisBroker)

    def close(self) -> None:
        self._connection.close()


def _joins(keys: Keys, left: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    for queue, join in left:
        yield Finding(
            "warning",
            "ownerless-key",
            keys.queue(queue).join(join),
            "this chord has no TTL, and no message is left that would count for it or read it",
            "its body will not run: send it again if it is wanted, then remove the key with UNLINK",
        )
