"""Every key and channel name that fastq uses on Redis is built here.

With the default prefix, for a queue ``default`` (the braces make one slot of a cluster out of all its keys):

    fastq:{default}:ready:<level>       list    messages to be taken, oldest first; levels 0 to 9
    fastq:{default}:levels              set     levels above 0 whose list is not empty
    fastq:{default}:delayed             zset    level, nonce and message -> due at (ms); what waits for a turn of a rate limit has
                                                the name of the bucket in its nonce
    fastq:{default}:leased:<process>    hash    delivery tag -> message; ``#`` -> number of the last fetch call
    fastq:{default}:leases              zset    process -> last renewal (ms), 0: condemned
    fastq:{default}:idle                zset    process -> when it wakes up by itself (ms)
    fastq:{default}:dead                zset    dead letter -> died at (us)
    fastq:{default}:dead:messages       hash    dead letter -> its record
    fastq:{default}:from:<producer>     string  last publish call of this producer (expires)
    fastq:{default}:join:<id>           hash    a join whose body goes to this queue, see below
    fastq:results:<slot>                hash    task id -> result record, for the time-ordered ids of one 4 second slot (expires)
    fastq:result:<id>                   string  result record of any other id (expires)
    fastq:revoked                       zset    task id -> number of its revocation (expires)
    fastq:terminated                    zset    signal and task id, of revocations that end what runs -> number (expires)
    fastq:paused                        hash    q:<queue> and t:<task name> -> paused since (ms); # -> number of the last change;
                                                p:<queue>: something is parked there; while it is put back r:<task name> -> since
                                                when (ms), h:<queue> -> where the next step begins
    fastq:rate:<bucket>                 string  when the bucket's turns taken so far are used up, us (expires then)
    fastq:nodes                         hash    node -> when it has said so (ms), and what it says of itself (expires)
    fastq:nodes:until                   zset    node -> when its record expires (ms) (expires)
    fastq:listeners                     zset    who listens to events -> until when (ms) (expires)
    fastq:events                        stream  batches of events (capped, expires)
    fastq:timetable:<scope>:entries     hash    name of a periodic entry -> its definition
    fastq:timetable:<scope>:states      hash    name -> its due time and what it has done, see ``lua/_entry.lua``
    fastq:timetable:<scope>:edits       zset    name -> number of its last edit, also of some that were removed
    fastq:timetable:<scope>:leader      string  the beat that leads (expires)
    fastq:timetable:<scope>:notice      channel that beats listen to
    fastq:wake:<process>                channel of an idle worker process
    fastq:inbox:<name>                  channel of a producer process that waits for results
    fastq:control:<database>            channel of requests to nodes; channels know no databases, hence the number in its name
    fastq:reply:<name>                  channel of a client that waits for answers of nodes

Fields of a join:

    #                           members still to count, 0: closed
    size, grown                 members it was opened with, and how many were added later
    level, delay, due, body     level, delay (ms), due at (ms) and message of its body; the message goes when it is published
    .<member>                   result record of a member
    failed, failed_id           the field and the task id of the member that did not succeed
    unsealed                    there while its members are still being published: until then it expires
"""

from __future__ import annotations

from dataclasses import dataclass

from fastq.exceptions import ImproperlyConfigured

__all__ = ["LEVELS", "Keys", "QueueKeys", "checked_level"]

#: priority levels 0 to 9
LEVELS = 10


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue."""

    base: str
    ready: tuple[str, ...]
    levels: str
    delayed: str
    leases: str
    idle: str
    dead: str
    dead_messages: str

    def leased(self, process: str) -> str:
        return f"{self.base}leased:{process}"

    def sent(self, producer: str) -> str:
        return f"{self.base}from:{producer}"

    def join(self, id: str) -> str:
        return f"{self.base}join:{id}"


def checked_level(level: int) -> int:
    """Return a priority level that has a list; anything else would fail in a script after its first write."""
    if not 0 <= level < LEVELS:
        raise ImproperlyConfigured(f"priority {level} is not one of 0 to {LEVELS - 1}, higher is more urgent.")
    return level


class Keys:
    """Build names under one prefix; the keys of a queue are built once and kept."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.wake_prefix = f"{prefix}wake:"
        self.inbox_prefix = f"{prefix}inbox:"
        self.slot_prefix = f"{prefix}results:"
        self._single_prefix = f"{prefix}result:"
        self.revoked = f"{prefix}revoked"
        self.terminated = f"{prefix}terminated"
        self.paused = f"{prefix}paused"
        self.nodes = f"{prefix}nodes"
        self.nodes_until = f"{prefix}nodes:until"
        self.listeners = f"{prefix}listeners"
        self.events = f"{prefix}events"
        self._queues: dict[str, QueueKeys] = {}

    def queue(self, name: str) -> QueueKeys:
        keys = self._queues.get(name)
        if keys is None:
            base = f"{self.prefix}{{{name}}}:"
            keys = self._queues[name] = QueueKeys(
                base=base,
                ready=tuple(f"{base}ready:{level}" for level in range(LEVELS)),
                levels=f"{base}levels",
                delayed=f"{base}delayed",
                leases=f"{base}leases",
                idle=f"{base}idle",
                dead=f"{base}dead",
                dead_messages=f"{base}dead:messages",
            )
        return keys

    def wake(self, process: str) -> str:
        return self.wake_prefix + process

    def inbox(self, name: str) -> str:
        return self.inbox_prefix + name

    def control(self, database: int) -> str:
        return f"{self.prefix}control:{database}"

    def reply(self, name: str) -> str:
        return f"{self.prefix}reply:{name}"

    def timetable(self, scope: str, part: str) -> str:
        return f"{self.prefix}timetable:{scope}:{part}"

    def result(self, task_id: str) -> tuple[str, bool]:
        """Return the key that holds a task's result, and whether it is a hash with the id as field.

        A UUIDv7 begins with its time in ms: without the last 3 of these 12 hex digits it names a slot of 4,096 ms. One HSET writes
        the results of a whole batch (0.5 us each where SET .. EX takes 3.2), and the slot's TTL is the TTL of all of them.
        """
        if len(task_id) == 36 and task_id[14] == "7" and task_id[8] == task_id[13] == task_id[18] == task_id[23] == "-":
            return self.slot(task_id), True
        return self.single(task_id), False

    def slot(self, head: str) -> str:
        """Return the hash of the time slot of a UUIDv7, of which the first ten characters are enough."""
        return f"{self.slot_prefix}{head[:8]}{head[9:10]}"

    def single(self, task_id: str) -> str:
        """Return the key of any other id."""
        return self._single_prefix + task_id

    def rate(self, bucket: str) -> str:
        return f"{self.prefix}rate:{bucket}"

    def every(self) -> str:
        """Return the glob that matches every key of every queue."""
        escaped = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in self.prefix)
        return f"{escaped}{{*}}:*"

    def queue_of(self, key: str) -> str | None:
        """Return the name of the queue that a key belongs to, None if it belongs to none."""
        if not key.startswith(f"{self.prefix}{{"):
            return None
        start = len(self.prefix) + 1
        ends = [key.find(f"}}:{kind}", start) for kind in _KINDS]
        found = [end for end in ends if end > 0]
        return key[start : min(found)] if found else None


_KINDS = ("ready:", "levels", "delayed", "leased:", "leases", "idle", "dead", "from:", "join:")
