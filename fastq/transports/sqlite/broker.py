"""Queues in SQLite: publish, fetch and settle, each one transaction; see ``schema`` for how the tables work together."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence

from fastq.exceptions import Fenced
from fastq.records import DEAD, DONE, RETRY, RETURN, Fetch, Fetched, Lease, Leased, Publication, Settled, Settlement
from fastq.transports.base import TransportOptions
from fastq.transports.sqlite import baton, dead, leases, places, results, sweep
from fastq.transports.sqlite.channels import SQLiteWake
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post
from fastq.transports.sqlite.schema import LAST_LEVEL, bounds, level_of
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteBroker"]

#: messages and bytes of one publishing transaction: it holds the write lock for some 10 ms, then others get a turn
PUBLISH_MESSAGES = 10_000
PUBLISH_BYTES = 16 * 1024 * 1024
#: bytes of one fetch, as on Redis; a larger message comes alone
FETCH_BYTES = 1024 * 1024
#: rows read at once: what a fetch may read in vain when the bytes are used up
FETCH_ROWS = 100
#: first byte of a redelivered message; the second holds the count, and a flag in its high bit
MARK = 0xC1


class SQLiteBroker:
    """``Broker`` on one file. The broker's clock is the machine's."""

    def __init__(self, target: Target, options: TransportOptions) -> None:
        self.url = target.url
        self.path = target.path
        self._options = options
        self._database = Connection(target, timeout_s=options.socket_timeout_s)
        self._database.on_open = self._opened
        self._post = Post()
        self._queues: dict[str, int] = {}
        self._results = results.Results(options.result_expires_s)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # --- publish ---

    def publish(self, producer: str, number: int, publications: Sequence[Publication]) -> None:
        for part, chunk in enumerate(_chunks(publications)):
            with self._database as sql:
                now_ms = self.now_ms()
                if not _claim(sql, producer, number, part, now_ms):
                    continue
                queues = self._keep(sql, chunk, now_ms)
                wakes = baton.choose(sql, queues, now_ms)
            self._wake(wakes, queues)

    def _keep(self, sql: sqlite3.Connection, publications: Sequence[Publication], now_ms: int) -> list[int]:
        ready: dict[int, list[tuple[int, bytes]]] = {}
        delayed: list[tuple[int, int, int, bytes]] = []
        queues: dict[int, None] = {}
        name, queue = "", 0
        for publication in publications:
            if publication.queue != name:
                name = publication.queue
                queue = self._queue(sql, name)
                queues[queue] = None
            level = publication.level
            if not 0 <= level <= LAST_LEVEL:
                raise ValueError(f"priority {level} is outside of 0 to {LAST_LEVEL}")
            due_ms = publication.due_ms or (now_ms + publication.delay_ms if publication.delay_ms > 0 else 0)
            if due_ms > now_ms:
                delayed.append((queue, due_ms, level, publication.message))
            else:
                ready.setdefault(queue, []).append((level, publication.message))
        for queue, messages in ready.items():
            places.append(sql, queue, messages)
        if delayed:
            sql.executemany("INSERT INTO delayed (queue, due_ms, level, message) VALUES (?, ?, ?, ?)", delayed)
        return list(queues)

    # --- fetch ---

    def fetch(self, fetch: Fetch) -> Fetched:
        with self._database as sql:
            now_ms = self.now_ms()
            fetched, queues = self._fetch(sql, fetch, now_ms)
            wakes = baton.choose(sql, queues, now_ms, me=fetch.process)
        self._wake(wakes, queues, me=fetch.process)
        return _unless_fenced(fetched, fetch.process)

    def _fetch(self, sql: sqlite3.Connection, fetch: Fetch, now_ms: int) -> tuple[Fetched | None, list[int]]:
        """Return the answer (None: fenced) and the queues looked at."""
        process = fetch.process
        names = {self._queue(sql, name): name for name in fetch.queues}
        last = leases.last_number(sql, process, names)
        if last is None:
            return None, []
        if fetch.number <= last:
            return Fetched(self._again(sql, fetch, names) if fetch.number == last else (), now_ms), []
        sql.execute("UPDATE leases SET number = ? WHERE process = ?", (fetch.number, process))
        baton.leave(sql, process)
        queues = list(names)
        turn = fetch.number % len(queues) if queues else 0
        taken: list[Leased] = []
        left, left_bytes = fetch.n, FETCH_BYTES
        for queue in queues[turn:] + queues[:turn]:
            places.promote(sql, queue, now_ms)
            if left <= 0:
                continue
            rows, last_chance = self._choose(sql, fetch, queue, left, left_bytes, first=left == fetch.n)
            if not rows:
                continue
            first_key, last_key = rows[0][0], rows[-1][0]
            sql.execute(
                "INSERT INTO leased (key, process, number, message) SELECT key, ?, ?, message FROM ready WHERE key BETWEEN ? AND ?",
                (process, fetch.number, first_key, last_key),
            )
            sql.execute("DELETE FROM ready WHERE key BETWEEN ? AND ?", (first_key, last_key))
            taken.append(Leased(names[queue], [str(key) for key, _ in rows], [message for _, message in rows]))
            left_bytes -= sum(len(message) for _, message in rows)
            left = 0 if last_chance else left - len(rows)
        next_due_ms = 0
        if not taken and fetch.idle and fetch.n > 0:
            next_due_ms = baton.enter(sql, process, queues)
        return Fetched(tuple(taken), now_ms, next_due_ms), queues

    def _choose(
        self, sql: sqlite3.Connection, fetch: Fetch, queue: int, n: int, max_bytes: int, *, first: bool
    ) -> tuple[list[tuple[int, bytes]], bool]:
        """Return the rows to take off the head of a queue, and whether they are one on its last chance."""
        if idle := baton.others(sql, queue, fetch.process):
            ready = baton.ready_up_to(sql, queue, n * (idle + 1))
            n = min(n, -(-ready // (idle + 1)))
        chosen: list[tuple[int, bytes]] = []
        cursor = sql.execute("SELECT key, message FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?", (*bounds(queue), n))
        last_charge = self._options.max_deliveries - 1
        while rows := cursor.fetchmany(FETCH_ROWS):
            for row in rows:
                message = row[1]
                max_bytes -= len(message)
                alone = not first or bool(chosen)
                if max_bytes < 0 and alone:
                    cursor.close()
                    return chosen, False
                if message[:1] == b"\xc1" or not last_charge:
                    charged = message[1] & 0x7F if len(message) > 1 and message[0] == MARK else 0
                    if charged >= last_charge >= 0:
                        cursor.close()
                        if alone or fetch.no_last_chance:
                            return chosen, False
                        return [row], True
                chosen.append(row)
        return chosen, False

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
        fetched: Fetched | None = None
        with self._database as sql:
            now_ms = self.now_ms()
            skipped, stored, touched = self._settle(sql, process, settlements, results, now_ms)
            looked: list[int] = []
            if fetch is not None:
                fetched, looked = self._fetch(sql, fetch, now_ms)
            queues = list({*touched, *looked})
            me = fetch.process if fetch is not None else ""
            wakes = baton.choose(sql, queues, now_ms, me=me) if queues else []
        self._wake(wakes, queues, me=me)
        if stored:
            self._results.tell(self._database, self._post, stored)
        if fetch is not None:
            fetched = _unless_fenced(fetched, fetch.process)
        return Settled(tuple(skipped), fetched)

    def _settle(
        self, sql: sqlite3.Connection, process: str, settlements: Sequence[Settlement], store: bool, now_ms: int
    ) -> tuple[list[str], list[Settlement], set[int]]:
        """Return the tags skipped, the settlements whose results were stored, and the queues that have new messages."""
        skipped: list[str] = []
        if not settlements:
            return skipped, [], set()
        plain = True
        for settlement in settlements:
            if settlement.verdict != DONE:
                plain = False
                break
        tags = [settlement.tag for settlement in settlements]
        column = "NULL" if plain else "message"
        held: dict[str, bytes | None] = {
            str(key): message
            for key, message in sql.execute(
                "DELETE FROM leased WHERE key IN (SELECT value FROM json_each(?)) AND process = ?"
                f" RETURNING key, {column}",
                (_keys(tags), process),
            ).fetchall()
        }
        mine: Sequence[Settlement] = settlements
        if len(held) != len(settlements):
            mine = []
            left = set(held)
            for settlement in settlements:
                if settlement.tag in left:
                    left.remove(settlement.tag)
                    mine.append(settlement)
                else:
                    skipped.append(settlement.tag)
        touched: set[int] = set()
        if not plain:
            touched = self._move(sql, mine, held, now_ms)
        stored: list[Settlement] = []
        if store:
            stored = [settlement for settlement in mine if settlement.result is not None]
            if stored:
                self._results.write(sql, [(settlement.id, settlement.result) for settlement in stored], now_ms)
        return skipped, stored, touched

    def _move(
        self, sql: sqlite3.Connection, settlements: Sequence[Settlement], held: dict[str, bytes | None], now_ms: int
    ) -> set[int]:
        """Carry out every verdict but DONE; return the queues that have new messages."""
        touched: set[int] = set()
        again: dict[int, list[tuple[int, bytes]]] = {}
        back: list[tuple[int, bytes]] = []
        delayed: list[tuple[int, int, int, bytes]] = []
        letters: list[tuple[int, int, int, str, bytes | None, bytes]] = []
        for settlement in settlements:
            verdict = settlement.verdict
            if verdict == DONE:
                continue
            key, message = int(settlement.tag), held[settlement.tag]
            assert message is not None
            queue = places.queue_of(key)
            if verdict == RETURN:
                back.append((key, message))
                touched.add(queue)
            elif verdict == RETRY:
                if settlement.message is not None:
                    message = settlement.message
                if settlement.delay_ms > 0:
                    delayed.append((queue, now_ms + settlement.delay_ms, settlement.level, message))
                else:
                    again.setdefault(queue, []).append((settlement.level, message))
                touched.add(queue)
            elif verdict == DEAD:
                if settlement.message is not None:
                    message = settlement.message
                letters.append((queue, level_of(key), now_ms, settlement.reason, settlement.detail, message))
            else:
                raise ValueError(f"{verdict} is no verdict")
        places.give_back(sql, back)
        for queue, messages in again.items():
            places.append(sql, queue, messages)
        if delayed:
            sql.executemany("INSERT INTO delayed (queue, due_ms, level, message) VALUES (?, ?, ?, ?)", delayed)
        if letters:
            dead.bury(sql, letters, self._options.dead_letter_max)
        return touched

    # --- wake ---

    def wake(self, process: str) -> SQLiteWake:
        return SQLiteWake(self._database, process)

    def _wake(self, processes: list[str], queues: Iterable[int], *, me: str = "") -> None:
        """Send the wakes decided on, after the commit (sent before, the woken would only wait for it). Whoever is gone leaves
        ``idle``, and the next one is taken."""
        while processes:
            gone = [process for process in processes if not self._post.wake(self._database.identity, process)]
            if not gone:
                return
            with self._database as sql:
                sql.executemany("DELETE FROM idle WHERE process = ?", [(process,) for process in gone])
                processes = baton.choose(sql, queues, self.now_ms(), me=me)

    # --- for supervisors ---

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        with self._database as sql:
            now_ms = self.now_ms()
            mine = [self._queue(sql, name) for name in queues]
            leases.renew(sql, mine, processes, now_ms)
            stale = leases.stale(sql, mine, processes, now_ms - lease_ms // 2)
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
            return leases.condemn(sql, leases_seen)

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
                step = leases.release(sql, no, process, marks)
                if not step and gone:
                    leases.bury(sql, no, process, now_ms)
                wakes = baton.choose(sql, [no], now_ms)
            self._wake(wakes, [no])
            if not step:
                return moved
            moved += step

    def close(self) -> None:
        self._post.close()
        self._database.shut()

    # --- names ---

    def _opened(self) -> None:
        self._queues.clear()

    def _queue(self, sql: sqlite3.Connection, name: str) -> int:
        """Return a queue's number, given out at its first mention."""
        no = self._queues.get(name)
        if no is None:
            no = places.queue_no(sql, name)
            # A number given out in a transaction that fails is given out again, perhaps to another name.
            if not sql.in_transaction or places.settled(sql, no):
                self._queues[name] = no
        return no


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


def _keys(tags: Sequence[str]) -> str:
    """Return the tags as a JSON array of numbers; what is no tag of this store is left out, so it is skipped."""
    joined = ",".join(tags)
    if not joined.replace(",", "").isdecimal() or not joined.isascii():
        joined = ",".join(tag for tag in tags if tag.isascii() and tag.isdecimal())
    return f"[{joined}]"


def _unless_fenced(fetched: Fetched | None, process: str) -> Fetched:
    if fetched is None:
        raise Fenced(f"The lease of {process} is missing or was taken away.")
    return fetched
