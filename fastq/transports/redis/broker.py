"""Queues, leases and dead letters on Redis. What is atomic happens in the scripts; here they are fed and answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fastq._core import task_id
from fastq.exceptions import EnvelopeError, Fenced, OperationalError
from fastq.records import Fetch, Fetched, Lease, Leased, Opening, Paused, Publication, Settled, Settlement
from fastq.transports.base import REVOKED_MAX, TransportOptions
from fastq.transports.redis import pausing, turns
from fastq.transports.redis.address import parse
from fastq.transports.redis.channel import RedisWake
from fastq.transports.redis.clock import ServerClock
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.health import check_server
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.limits import CALL_BYTES, CALL_MESSAGES
from fastq.transports.redis.publishing import Command, PublishCalls
from fastq.transports.redis.replication import Replicas
from fastq.transports.redis.scripts import script
from fastq.transports.redis.settling import SettleCalls

__all__ = ["RedisBroker"]

#: calls of one publish on their way at once: the server works on one while the next is packed
PIPELINE = 4

#: leases of which is remembered that they were entered; names are never used twice, so the oldest are of processes long gone
ENTERED = 20_000

#: deliveries that one step of a release moves
RELEASE_STEP = 100


class RedisBroker:
    """A Broker on one Redis server. One connection, opened at the first call."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        self.address = parse(url, options.extra)
        self.url = self.address.display
        self.keys = Keys(options.prefix)
        self.options = options
        self._connection = Connection(self.address, options, "broker")
        self._clock = ServerClock(self._connection)
        #: queues on which a process was registered as idle by its last fetch there
        self._idle: dict[str, set[str]] = {}
        #: leases entered by this instance, oldest first: from then on they are renewed, never entered again
        self._entered: dict[tuple[str, str], None] = {}
        self._settling = SettleCalls(self.keys, options)
        #: None: nothing is waited for
        self._replicas = Replicas(options, self.url) if options.wait_replicas > 0 else None
        self._fetch_script = script("fetch")

    def __repr__(self) -> str:
        return f"<RedisBroker {self.url}>"

    def now_ms(self) -> int:
        return self._clock.now_ms()

    # --- publish ---

    def publish(self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()) -> None:
        if not publications and not openings:
            return
        calls = PublishCalls(self.keys, producer, number)
        if openings:
            # Answered before the first member is sent: a member that ended before its join is there would never be counted.
            self._send([(command, publications) for command in calls.openings(openings)], [])
        self._send(list(calls.messages(publications)), list(calls.sealing()), confirm=True)

    def _send(
        self, parts: Sequence[tuple[Command, Sequence[Publication]]], after: list[Command], *, confirm: bool = False
    ) -> None:
        """Send the parts of a publish call, a few at once, and with the last of them the commands that seal its joins.

        ``confirm``: behind them replicas are waited for, if any are asked for; a call that they do not confirm is lost as a whole.
        """
        kept = 0
        replicas = self._replicas if confirm else None
        sent_again = self._connection.repeated
        try:
            for start in range(0, max(len(parts), 1), PIPELINE):
                window = parts[start : start + PIPELINE]
                last = after if start + PIPELINE >= len(parts) else []
                sent = time.time()
                waits = [replicas.after_publish()] if replicas is not None and start + PIPELINE >= len(parts) else []
                replies = self._connection.call([*[command for command, _ in window], *last, *waits])
                confirmed = replies.pop() if waits else 0
                for (command, _), reply in zip(window, replies, strict=False):
                    if reply < 0:
                        # Its predecessor in this pipeline met a server that had forgotten the script, and was sent again behind
                        # it. Now it is in, so this one can follow.
                        reply = self._again(command)
                        confirmed = -1
                    kept += 1
                for command, reply in zip(last, replies[len(window) :], strict=True):
                    if reply < 0:
                        self._again(command)
                        confirmed = -1
                if replicas is not None and waits:
                    if confirmed < 0 or self._connection.repeated > sent_again:
                        # something was sent again behind the WAIT
                        confirmed = self._connection.call(waits)[0]
                    if confirmed < replicas.wanted:
                        # the next call connects anew: if this is not the primary any more, sentinels know the one that is
                        self._connection.close()
                        kept = 0
                        replicas.check_published(confirmed)
                if window:
                    self._clock.see(replies[len(window) - 1] if replies[len(window) - 1] > 0 else reply, sent)
        except OperationalError as error:
            lost = [publications for _, publications in parts[kept:]]
            raise OperationalError(str(error), task_ids=_ids(lost)) from error.__cause__ or error

    def _again(self, command: Command) -> int:
        """Send a part again whose predecessors are in now; return the answer."""
        reply: int = self._connection.call([command])[0]
        if reply < 0:
            raise OperationalError(f"Redis at {self.url} lost a part of this call in between: publish it again.")
        return reply

    # --- fetch and settle ---

    def fetch(self, fetch: Fetch) -> Fetched:
        return self._fetch(fetch, (), [])

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        fetching = _order(fetch)[0] if fetch is not None and fetch.n > 0 else None
        calls = list(self._settling.commands(process, settlements, results, fetching))
        commands = [command for command, _ in calls]
        replies: list[Any] = []
        fetched = None
        replicas = self._replicas if commands else None
        waits = replicas.after_settle() if replicas is not None else []
        commands += waits
        try:
            if fetch is None:
                replies = self._connection.call(commands) if commands else []
            else:
                repeated = self._connection.repeated
                fetched = self._fetch(fetch, commands, replies)
                if self._connection.repeated > repeated:
                    # The settlement ran behind the fetch, and woke nobody because it expected to run before it: fetch again.
                    fetched = replace(fetched, next_due_ms=fetched.now_ms)
        except OperationalError as exc:
            # What the server has seen of the TTLs is unknown.
            self._settling.forget()
            if isinstance(exc, Fenced):
                exc.skipped = _skipped(calls, replies)
            raise
        if replicas is not None and waits:
            replicas.note_settled(replies.pop())
        return Settled(_skipped(calls, replies), fetched)

    def _fetch(self, fetch: Fetch, before: Sequence[tuple[Any, ...]], before_replies: list[Any]) -> Fetched:
        """Run commands, then a fetch, in one round trip; fill in the replies of the commands, and return what was fetched.

        Several queues share ``n``. A pipeline cannot pass on what one queue left of it: given n each, they could lease n times
        the number of queues; given a share each, a worker whose work is all in one queue would run at a fraction. So the queue
        whose turn it is (by call number) is asked for n in the first round trip, and each further one, for what is left, only
        while something is left: under load, when a round trip counts, the first queue fills the call. A queue that is not asked
        but has this process registered as idle is asked for nothing at the end: that leaves its ``idle`` and passes the baton.
        """
        order = _order(fetch)
        idle_on = self._idle.setdefault(fetch.process, set())
        leased: list[Leased] = []
        answers: list[tuple[str, list[Any]]] = []
        left, spare = fetch.n, fetch.no_last_chance
        sent = time.time()
        if left <= 0:
            replies = self._connection.call([*before, *[self._fetch_command(fetch, queue, 0, False, spare) for queue in order]])
            before_replies += replies[: len(before)]
            answers = list(zip(order, replies[len(before) :], strict=True))
            self._take_in(fetch, answers, leased)
        else:
            for position, queue in enumerate(order):
                commands = [*before, self._fetch_command(fetch, queue, left, fetch.idle and not leased, spare)]
                replies = self._connection.call(commands)
                if before:
                    before_replies += replies[:-1]
                    before = ()
                answer = [(queue, replies[-1])]
                answers += answer
                taken = self._take_in(fetch, answer, leased)
                left -= taken
                if taken:
                    if self._last_chance(leased[-1].messages[0]):
                        left = 0
                    spare = True  # alone means alone in all queues
                if left <= 0 or (leased and position == len(order) - 1):
                    # what was registered as idle, in this call or before, is not idle any more
                    rest = [name for name in order if name in idle_on]
                    if rest:
                        replies = self._connection.call([self._fetch_command(fetch, name, 0, False, spare) for name in rest])
                        answers += (late := list(zip(rest, replies, strict=True)))
                        self._take_in(fetch, late, leased)
                    break
        now_ms = answers[-1][1][1]
        self._clock.see(now_ms, sent)
        dues = [answer[2] for _, answer in answers if answer[2]]
        revocations = max([answer[6] for _, answer in answers])
        return Fetched(tuple(leased), now_ms, min(dues, default=0), revocations, answers[-1][1][7])

    def _take_in(self, fetch: Fetch, answers: Sequence[tuple[str, list[Any]]], leased: list[Leased]) -> int:
        """Read the answers of fetch scripts into ``leased``; return how many messages came. Raises Fenced."""
        idle_on = self._idle[fetch.process]
        taken = 0
        for queue, answer in answers:
            if not answer[0]:
                del self._idle[fetch.process]
                raise Fenced(
                    f"Process {fetch.process} has no lease on queue {queue!r} at Redis {self.url}: "
                    "it was taken for dead, or never entered."
                )
            if answer[3]:
                idle_on.add(queue)
            else:
                idle_on.discard(queue)
            runs, messages = answer[4], answer[5]
            if messages:
                tags: list[str] = []
                for i in range(0, len(runs), 3):
                    stem, first = f"{int(runs[i])}:{fetch.number}:", runs[i + 1]
                    tags += [f"{stem}{k}" for k in range(first, first + runs[i + 2])]
                leased.append(Leased(queue, tags, messages))
                taken += len(messages)
        return taken

    def _fetch_command(self, fetch: Fetch, queue: str, n: int, idle: bool, spare: bool) -> tuple[Any, ...]:
        keys = self.keys.queue(queue)
        return (
            self._fetch_script,
            17,
            *(keys.leases, keys.leased(fetch.process), keys.idle, keys.delayed, keys.levels),
            *keys.ready,
            self.keys.revoked,
            self.keys.paused,
            *(fetch.process, fetch.number, min(n, CALL_MESSAGES), int(idle), int(spare)),
            *(self._last, CALL_BYTES, self.keys.wake_prefix, pausing.queue_field(queue), pausing.held_field(queue)),
        )

    @property
    def _last(self) -> int:
        """How many charged deliveries make the next one the last; more than a mark can count where there is no limit."""
        return self.options.max_deliveries - 1 if self.options.max_deliveries > 0 else 128

    def _last_chance(self, message: bytes) -> bool:
        return message[:1] == b"\xc1" and len(message) > 1 and 0 < message[1] & 0x7F >= self._last

    def reserve(self, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
        return turns.reserve(self._connection, self.keys.rate(bucket), n, period_us, burst)

    def recall(self, queue: str, limit: str, *, kept: str = "", left: Sequence[str] = (), place: str = "") -> tuple[int, str]:
        return turns.recall(self._connection, self.keys, queue, limit, kept, left, place)

    # --- revoked tasks ---

    def revoke(self, ids: Sequence[str], expires_s: int, *, signal: str = "") -> int:
        number = 0
        for start in range(0, len(ids), CALL_MESSAGES):
            some = ids[start : start + CALL_MESSAGES]
            keys = (self.keys.revoked, self.keys.terminated)
            number = self._connection.run(script("revoke"), keys, (max(expires_s, 1), REVOKED_MAX, signal, *some))
        return number

    def revoked(self, since: int = 0) -> tuple[int, list[str]]:
        # The number first: what is revoked between the two is told now, and told again after the next fetch.
        newest, ids = self._connection.call(
            [
                ("ZRANGE", self.keys.revoked, -1, -1, "WITHSCORES"),
                ("ZRANGEBYSCORE", self.keys.revoked, f"({since}", "+inf"),
            ]
        )
        return (int(float(newest[1])) if newest else 0), [id.decode() for id in ids]

    def terminated(self, since: int = 0) -> tuple[int, dict[str, str]]:
        # As above; in the order of their numbers, so of two signals for one id the later counts.
        newest, members = self._connection.call(
            [
                ("ZRANGE", self.keys.terminated, -1, -1, "WITHSCORES"),
                ("ZRANGEBYSCORE", self.keys.terminated, f"({since}", "+inf"),
            ]
        )
        pairs = (member.decode().partition(":") for member in members)
        return (int(float(newest[1])) if newest else 0), {id: signal for signal, _, id in pairs}

    # --- paused ---

    def pause(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = ()) -> Paused:
        return pausing.change(self._connection, self.keys, True, queues, tasks)

    def resume(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = (), lost: Sequence[str] = ()) -> Paused:
        return pausing.change(self._connection, self.keys, False, queues, tasks, lost)

    def unpark(self) -> bool:
        return pausing.unpark(self._connection, self.keys)

    def paused(self) -> Paused:
        return pausing.look(self._connection, self.keys)

    def wake(self, process: str) -> RedisWake:
        # Half-open connections come together: the next call would wait for its answer as long as the PING has.
        return RedisWake(self.address, self.options, self.keys.wake(process), on_silence=self._connection.close)

    # --- for supervisors ---

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        if not queues:
            return []
        commands = []
        for queue in queues:
            keys = self.keys.queue(queue)
            marked = [("=" if (queue, process) in self._entered else "+") + process for process in processes]
            commands.append(
                (
                    script("renew"),
                    16,
                    *(keys.leases, keys.idle, keys.delayed, keys.levels),
                    *(*keys.ready, keys.dead, keys.dead_messages),
                    *(lease_ms, self.keys.wake_prefix),
                    *(self.options.dead_letter_max, self.options.dead_letter_expires_s),
                    *marked,
                )
            )
        sent = time.time()
        replies = self._connection.call(commands)
        self._clock.see(replies[-1][0], sent)
        self._entered.update(((queue, process), None) for queue in queues for process in processes)
        while len(self._entered) > max(ENTERED, len(queues) * len(processes)):
            del self._entered[next(iter(self._entered))]
        return [
            Lease(queue, reply[i].decode(), reply[i + 1].decode())
            for queue, reply in zip(queues, replies, strict=True)
            for i in range(1, len(reply), 2)
        ]

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        queues: dict[str, list[Lease]] = {}
        for lease in leases:
            queues.setdefault(lease.queue, []).append(lease)
        if not queues:
            return []
        commands = [
            (script("condemn"), 1, self.keys.queue(queue).leases, *[w for lease in items for w in (lease.process, lease.value)])
            for queue, items in queues.items()
        ]
        replies = self._connection.call(commands)
        return [Lease(queue, name.decode(), "0") for queue, names in zip(queues, replies, strict=True) for name in names]

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        key = self.keys.queue(queue).leased(process)
        tags = self._tags(key)
        found: list[tuple[str, bytes]] = []
        for start in range(0, len(tags), RELEASE_STEP):
            step = tags[start : start + RELEASE_STEP]
            messages = self._connection.call([("HMGET", key, *step)])[0]
            found += [(tag, message) for tag, message in zip(step, messages, strict=True) if message is not None]
        return found

    def _tags(self, key: str) -> list[str]:
        """Return the tags in a leased hash, oldest first."""
        tags = [name.decode() for name in self._connection.call([("HKEYS", key)])[0] if name != b"#"]
        return sorted(tags, key=lambda tag: tuple(int(part) for part in tag.split(":")[1:]))

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        keys = self.keys.queue(queue)
        tags = self._tags(keys.leased(process))[::-1]
        moved = 0
        # With nothing leased one step still removes what the process owned.
        for start in range(0, max(len(tags), 1), RELEASE_STEP):
            step = tags[start : start + RELEASE_STEP]
            reply = self._connection.run(
                script("release"),
                (keys.leased(process), keys.leases, keys.idle, keys.levels, *keys.ready),
                (process, self.keys.wake_prefix, int(gone), *[word for tag in step for word in (tag, marks.get(tag, b""))]),
            )
            if reply < 0:
                raise OperationalError(
                    f"Process {process} holds a live lease on queue {queue!r} at Redis {self.url}: "
                    "condemn it before its deliveries are released."
                )
            moved += reply
        return moved

    def check_server(self, queues: Sequence[str] = ()) -> list[str]:
        """Raise ImproperlyConfigured for a server that cannot keep fastq's promises; return warnings for one that may not."""
        return check_server(self._connection, self.keys, self.url, queues)

    def close(self) -> None:
        self._connection.close()


def _order(fetch: Fetch) -> tuple[str, ...]:
    """Return the queues of a fetch, the one whose turn it is first."""
    queues = fetch.queues
    turn = fetch.number % len(queues) if len(queues) > 1 else 0
    return queues[turn:] + queues[:turn]


def _skipped(calls: Iterable[tuple[Any, Sequence[Settlement]]], replies: Iterable[Sequence[int]]) -> tuple[str, ...]:
    """Return the tags that settle scripts have skipped; more may stand behind their replies."""
    return tuple(ordered[index].tag for (_, ordered), reply in zip(calls, replies, strict=False) for index in reply or ())


def _ids(parts: Sequence[Sequence[Publication]]) -> list[str]:
    """Return the ids of the messages; what is no envelope has none."""
    ids = []
    for part in parts:
        for publication in part:
            try:
                ids.append(task_id(publication.message))
            except EnvelopeError:
                continue
    return ids
