"""Queues in SQLite: publish, fetch and settle, each one transaction; see ``schema`` for how the tables work together."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from fastq.exceptions import Fenced
from fastq.records import Fetch, Fetched, Lease, Leased, Opening, Paused, Publication, Settled, Settlement
from fastq.transports.base import TransportOptions
from fastq.transports.sqlite import baton, joins, leases, pausing, places, revocations, settling, sweep, turns
from fastq.transports.sqlite.channels import SQLiteWake
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post
from fastq.transports.sqlite.results import Results, tell
from fastq.transports.sqlite.schema import bounds
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteBroker"]

#: messages and bytes of one publishing transaction: it holds the write lock for some 10 ms, then others get a turn
PUBLISH_MESSAGES = 10_000
PUBLISH_BYTES = 16 * 1024 * 1024
#: bytes of one fetch, as on Redis; a larger message comes alone
FETCH_BYTES = 1024 * 1024
#: rows read at once: what a fetch may read in vain when the bytes are used up
FETCH_ROWS = 100
LEASE = "INSERT INTO leased (key, process, number, message) SELECT key, ?, ?, message FROM ready WHERE key"
#: first byte of a redelivered message; the second holds the count, and a flag in its high bit
MARK = b"\xc1"
#: messages on their last chance that one fetch passes over at most
PASSED_OVER = 100


@dataclass(slots=True)
class Pick:
    """What a fetch takes from one queue."""

    rows: list[tuple[int, bytes]]
    #: messages passed over because they are on their last chance
    skipped: int
    #: the one row is on its last chance
    last_chance: bool = False


@dataclass(slots=True)
class Look:
    """What a fetch found."""

    #: None: fenced
    fetched: Fetched | None
    #: the queues it looked at
    queues: list[int]
    #: nothing was taken, but something was passed over
    only_last_chances: bool = False

    def answer(self, fetch: Fetch, skipped: Sequence[str] = ()) -> Fetched:
        if self.fetched is None:
            fenced = Fenced(f"The lease of {fetch.process} is missing or was taken away.")
            fenced.skipped = tuple(skipped)
            raise fenced
        return self.fetched


class SQLiteBroker:
    """``Broker`` on one file. The broker's clock is the machine's."""

    def __init__(self, target: Target, options: TransportOptions) -> None:
        self.url = target.url
        self.path = target.path
        self._options = options
        self._database = Connection(target, timeout_s=options.socket_timeout_s)
        self._post = Post()
        #: number of each queue seen; a number given out in a transaction that fails may go to another name
        self._queues: dict[str, int] = {}
        self._database.on_reset = self._queues.clear
        self._results = Results(options.result_expires_s)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # --- publish ---

    def publish(self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()) -> None:
        for opening in openings:
            places.check_level(opening.body.level)
        chunks = list(_chunks(publications))
        if openings and not chunks:
            chunks = [()]
        for part, chunk in enumerate(chunks):
            with self._database as sql:
                now_ms = self.now_ms()
                if not _claim(sql, producer, number, part, now_ms):
                    continue
                queues = places.keep(sql, chunk, now_ms, self._number(sql))
                if openings:
                    # In the transaction of the first messages: nobody sees a member without its join.
                    if part == 0:
                        joins.open_all(sql, openings, now_ms, sealed=len(chunks) == 1)
                    elif part == len(chunks) - 1:
                        joins.seal(sql, openings)
                wakes = self._choose(sql, queues, now_ms)
            self._wake(wakes, queues)

    # --- fetch ---

    def fetch(self, fetch: Fetch) -> Fetched:
        with self._database as sql:
            now_ms = self.now_ms()
            look = self._fetch(sql, fetch, now_ms)
            wakes = self._choose(sql, look.queues, now_ms, fetch, look)
        self._wake(wakes, look.queues, fetch)
        return look.answer(fetch)

    def _fetch(self, sql: sqlite3.Connection, fetch: Fetch, now_ms: int) -> Look:
        process = fetch.process
        names = {self._queue(sql, name): name for name in fetch.queues}
        last = leases.last_number(sql, process, names)
        if last is None:
            return Look(None, [])
        if fetch.number <= last:
            again = self._again(sql, fetch, names) if fetch.number == last else ()
            return Look(Fetched(again, now_ms, revocations=revocations.last(sql), pauses=pausing.read(sql).number), [])
        sql.execute("UPDATE leases SET number = ? WHERE process = ?", (fetch.number, process))
        baton.leave(sql, process)
        queues = list(names)
        turn = fetch.number % len(queues) if queues else 0
        taken: list[Leased] = []
        left, left_bytes, skipped = fetch.n, FETCH_BYTES, 0
        paused = pausing.read(sql)
        for queue in queues[turn:] + queues[:turn]:
            places.promote(sql, queue, now_ms)
            if left <= 0 or paused.rests(names[queue]):
                continue
            pick = self._pick(sql, fetch, queue, left, left_bytes, first=not taken)
            skipped += pick.skipped
            if not pick.rows:
                continue
            _lease(sql, process, fetch.number, pick)
            taken.append(Leased(names[queue], [str(key) for key, _ in pick.rows], [message for _, message in pick.rows]))
            left_bytes -= sum([len(message) for _, message in pick.rows])
            left = 0 if pick.last_chance else left - len(pick.rows)
        next_due_ms = 0
        if not taken and fetch.idle and fetch.n > 0:
            # nobody waits for a paused queue: so whatever comes there wakes nobody
            waited = [queue for queue in queues if not paused.rests(names[queue])]
            next_due_ms = baton.enter(sql, process, waited, no_last_chance=fetch.no_last_chance)
        fetched = Fetched(tuple(taken), now_ms, next_due_ms, revocations.last(sql), paused.number)
        return Look(fetched, queues, only_last_chances=skipped > 0 and not taken)

    def _pick(self, sql: sqlite3.Connection, fetch: Fetch, queue: int, n: int, max_bytes: int, *, first: bool) -> Pick:
        """Choose what to take off the head of a queue; ``first``: nothing was taken in this call."""
        if idle := baton.others(sql, queue, fetch.process):
            n = min(n, -(-baton.ready_up_to(sql, queue, n * (idle + 1)) // (idle + 1)))
        chosen: list[tuple[int, bytes]] = []
        skipped = 0
        last_charge = max(self._options.max_deliveries - 1, 1)
        cursor = sql.execute("SELECT key, message FROM ready WHERE key BETWEEN ? AND ? ORDER BY key", bounds(queue))
        try:
            while rows := cursor.fetchmany(min(n - len(chosen), FETCH_ROWS)):
                for row in rows:
                    message = row[1]
                    if message[:1] == MARK and message[1:2] and message[1] & 0x7F >= last_charge and self._options.max_deliveries:
                        if first and not chosen and not skipped and not fetch.no_last_chance:
                            return Pick([row], 0, last_chance=True)
                        # Passed over, it stays at the head for a call or a process that may take it.
                        skipped += 1
                        if skipped >= PASSED_OVER:
                            return Pick(chosen, skipped)
                        continue
                    max_bytes -= len(message)
                    if max_bytes < 0 and (chosen or not first):
                        return Pick(chosen, skipped)
                    chosen.append(row)
                if len(chosen) >= n:
                    break
        finally:
            cursor.close()
        return Pick(chosen, skipped)

    def _again(self, sql: sqlite3.Connection, fetch: Fetch, names: dict[int, str]) -> tuple[Leased, ...]:
        rows = sql.execute(
            "SELECT key, message FROM leased WHERE process = ? AND number = ? ORDER BY key", (fetch.process, fetch.number)
        ).fetchall()
        found: list[Leased] = []
        for queue, name in names.items():
            first, last = bounds(queue)
            here = [(str(key), message) for key, message in rows if first <= key <= last]
            if here:
                found.append(Leased(name, [tag for tag, _ in here], [message for _, message in here]))
        return tuple(found)

    # --- settle ---

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        look: Look | None = None
        with self._database as sql:
            now_ms = self.now_ms()
            skipped, told, touched = settling.settle(
                sql,
                process,
                settlements,
                now_ms,
                self._number(sql),
                results=self._results if results else None,
                dead_letter_max=self._options.dead_letter_max,
                dead_letter_s=self._options.dead_letter_expires_s,
            )
            if fetch is not None:
                look = self._fetch(sql, fetch, now_ms)
                touched.update(look.queues)
            wakes = self._choose(sql, touched, now_ms, fetch, look)
        self._wake(wakes, touched, fetch)
        if told:
            tell(self._database, self._post, told, now_ms)
        return Settled(tuple(skipped), look.answer(fetch, skipped) if look is not None and fetch is not None else None)

    # --- rate limits ---

    def reserve(self, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
        with self._database as sql:
            return turns.reserve(sql, bucket, n, period_us, burst, time.time_ns() // 1000)

    def recall(self, queue: str, limit: str, *, kept: str = "", left: Sequence[str] = (), place: str = "") -> tuple[int, str]:
        with self._database as sql:
            no = self._queue(sql, queue)
            recalled, place = turns.recall(sql, no, limit, kept, left, place)
            wakes = self._choose(sql, [no], self.now_ms()) if recalled else []
        self._wake(wakes, [no])
        return recalled, place

    # --- revoked tasks ---

    def revoke(self, ids: Sequence[str], expires_s: int, *, signal: str = "") -> int:
        if not ids:
            return 0
        with self._database as sql:
            return revocations.add(sql, ids, expires_s, self.now_ms(), signal)

    def revoked(self, since: int = 0) -> tuple[int, list[str]]:
        with self._database as sql:
            return revocations.since(sql, since)

    def terminated(self, since: int = 0) -> tuple[int, dict[str, str]]:
        with self._database as sql:
            return revocations.terminated(sql, since)

    # --- paused ---

    def pause(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = ()) -> Paused:
        with self._database as sql:
            numbers = [self._queue(sql, name) for name in queues]
            sql.executemany("DELETE FROM idle WHERE queue = ?", [(number,) for number in numbers])
            return pausing.change(sql, True, queues, tasks, time.time_ns() // 1000)

    def resume(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = (), lost: Sequence[str] = ()) -> Paused:
        with self._database as sql:
            paused = pausing.change(sql, False, queues, tasks, time.time_ns() // 1000)
            woken = pausing.holders(sql, [self._queue(sql, name) for name in queues])
        self._tell(woken)
        return paused

    def unpark(self) -> bool:
        # nearly always this is all, and needs no turn at writing
        if not self._database.read(pausing.ANYTHING_RESUMING):
            return False
        with self._database as sql:
            more, woken = pausing.unpark(sql)
        self._tell(woken)
        return more

    def _tell(self, processes: Iterable[str]) -> None:
        """Wake processes that wait for a queue to go on; who is gone has nothing to take."""
        for process in processes:
            self._post.wake(self._database.identity, process)

    def paused(self) -> Paused:
        with self._database as sql:
            return pausing.read(sql)

    # --- wake ---

    def wake(self, process: str) -> SQLiteWake:
        return SQLiteWake(self._database, process)

    def _choose(
        self, sql: sqlite3.Connection, queues: Collection[int], now_ms: int, fetch: Fetch | None = None, look: Look | None = None
    ) -> list[str]:
        me = "" if fetch is None else fetch.process
        return baton.choose(sql, queues, now_ms, me=me, any_message=look is not None and look.only_last_chances) if queues else []

    def _wake(self, processes: list[str], queues: Collection[int], fetch: Fetch | None = None) -> None:
        """Send the wakes decided on, after the commit (sent before, the woken would only wait for it). Whoever is gone leaves
        ``idle``, and the next one is taken."""
        while processes:
            gone = [process for process in processes if not self._post.wake(self._database.identity, process)]
            if not gone:
                return
            with self._database as sql:
                sql.executemany("DELETE FROM idle WHERE process = ?", [(process,) for process in gone])
                processes = self._choose(sql, queues, self.now_ms(), fetch)

    # --- for supervisors ---

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        with self._database as sql:
            now_ms = self.now_ms()
            mine = [self._queue(sql, name) for name in queues]
            leases.renew(sql, mine, processes, now_ms)
            stale = leases.stale(sql, mine, now_ms - lease_ms // 2)
            for queue in mine:
                places.promote(sql, queue, now_ms)
            wakes = baton.choose(sql, mine, now_ms, again=True)
            sweep.sweep(sql, now_ms, self._options)
        self._wake(wakes, mine)
        return stale

    def condemn(self, leases_seen: Sequence[Lease]) -> list[Lease]:
        if not leases_seen:
            return []
        with self._database as sql:
            return leases.condemn(sql, [(self._queue(sql, lease.queue), lease) for lease in leases_seen])

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        with self._database as sql:
            rows = leases.held(sql, self._queue(sql, queue), process)
        return [(str(key), message) for key, message in rows]

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        moved = 0
        while True:
            with self._database as sql:
                no = self._queue(sql, queue)
                now_ms = self.now_ms()
                step, more = leases.release(sql, no, process, marks)
                if gone and not more:
                    leases.bury(sql, no, process, now_ms)
                wakes = self._choose(sql, [no], now_ms)
            self._wake(wakes, [no])
            moved += step
            if not more:
                return moved

    def close(self) -> None:
        self._post.close()
        self._database.shut()

    # --- names ---

    def _queue(self, sql: sqlite3.Connection, name: str) -> int:
        """Return a queue's number, given out at its first mention."""
        no = self._queues.get(name)
        if no is None:
            no = self._queues[name] = places.queue_no(sql, name)
        return no

    def _number(self, sql: sqlite3.Connection) -> Callable[[str], int]:
        return partial(self._queue, sql)


def _claim(sql: sqlite3.Connection, producer: str, number: int, part: int, now_ms: int) -> bool:
    """Take a publish call's number; False if the call was kept before."""
    cursor = sql.execute(
        "INSERT INTO producers (name, number, part, seen_ms) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET number = excluded.number, part = excluded.part, seen_ms = excluded.seen_ms"
        " WHERE (excluded.number, excluded.part) > (producers.number, producers.part)",
        (producer, number, part, now_ms),
    )
    return cursor.rowcount > 0


def _chunks(publications: Sequence[Publication]) -> Iterable[Sequence[Publication]]:
    """Split a call by number and bytes. The same call always splits in the same way."""
    start = size = 0
    for at, publication in enumerate(publications):
        length = len(publication.message)
        if at > start and (at - start >= PUBLISH_MESSAGES or size + length > PUBLISH_BYTES):
            yield publications[start:at]
            start, size = at, 0
        size += length
    if start < len(publications):
        yield publications[start:]


def _lease(sql: sqlite3.Connection, process: str, number: int, pick: Pick) -> None:
    """Move picked rows from ready to leased: one key range, unless something was passed over."""
    if not pick.skipped:
        span = (pick.rows[0][0], pick.rows[-1][0])
        sql.execute(f"{LEASE} BETWEEN ? AND ?", (process, number, *span))
        sql.execute("DELETE FROM ready WHERE key BETWEEN ? AND ?", span)
    else:
        sql.executemany(f"{LEASE} = ?", [(process, number, key) for key, _ in pick.rows])
        sql.executemany("DELETE FROM ready WHERE key = ?", [(key,) for key, _ in pick.rows])
