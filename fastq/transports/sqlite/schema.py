"""The tables, their version, and how a place in a queue is one integer.

    queues     every queue name ever used, and how far its places have been given out
    ready      messages to be fetched, in order of ``key``
    leased     messages that a process holds, under the key they had when they were fetched: that key is the delivery tag
    delayed    messages that are not due yet; ``turn``: the bucket of the rate limit for whose turn one waits
    leases     which process is alive on which queue
    idle       processes that wait for a wake
    producers  the last publish call of each producer
    results    result records
    dead       dead letters
    missed     results of which an inbox could not be told, as its socket was full
    joins      members of a chord that are still to come, and the message that follows
    members    those that have come
    buckets    when the next turn of a rate limit is
    revoked    ids of tasks that must not start
    terminated signals that end what runs of them
    paused     queues and task names that are paused, or being put back, with the number of the last change
    ears       sockets that hear what is said to all nodes (topic "") or to one who has asked
    letters    what was said, until its ear has taken it
    nodes      what nodes say of themselves
    listeners  who listens to events
    events     batches of events
    timetable  periodic entries; without a definition: one that was removed, kept for those who look for edits
    leaders    which beat leads

**Key.** ``queue << 48 | (9 - level) << 44 | place``. One range scan of ``ready`` gives a queue strictly by level and then by age,
fetching is a move of one key range, and no further index has to be kept. Places count up from the middle at the tail and down from
it at the head, and are never given out twice, so a tag is unique for ever: a late settlement can never meet another delivery.
44 bits last for five years of 50,000 messages a second in one queue; 32,767 queue names fit.
"""

from __future__ import annotations

import re
import secrets
import sqlite3

from fastq.exceptions import ImproperlyConfigured

__all__ = ["APPLICATION_ID", "LAST_LEVEL", "MIDDLE", "VERSION", "bounds", "check", "create", "key_base", "level_of", "names"]

#: "fstq" in the file's header: this is no other application's database
APPLICATION_ID = 0x66737471

PLACE_BITS = 44
QUEUE_SHIFT = 48
#: the first place a queue gives out
MIDDLE = 1 << (PLACE_BITS - 1)
LAST_LEVEL = 9
#: a signed 64-bit key leaves 15 bits
LAST_QUEUE = (1 << 15) - 1

#: what each version of the tables added to the one before
STEPS = (
    f"""
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE queues (
        no INTEGER PRIMARY KEY CHECK (no BETWEEN 1 AND {LAST_QUEUE}),
        name TEXT NOT NULL UNIQUE,
        head INTEGER NOT NULL DEFAULT {MIDDLE} CHECK (head > 0),
        tail INTEGER NOT NULL DEFAULT {MIDDLE} CHECK (tail < {1 << PLACE_BITS})
    );
    CREATE TABLE ready (key INTEGER PRIMARY KEY, message BLOB NOT NULL);
    CREATE TABLE leased (key INTEGER PRIMARY KEY, process TEXT NOT NULL, number INTEGER NOT NULL, message BLOB NOT NULL);
    CREATE TABLE delayed (
        id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, due_ms INTEGER NOT NULL, level INTEGER NOT NULL, message BLOB NOT NULL
    );
    CREATE INDEX delayed_due ON delayed (queue, due_ms);
    CREATE TABLE leases (
        process TEXT NOT NULL,
        queue INTEGER NOT NULL,
        beat INTEGER NOT NULL,
        renewed_ms INTEGER NOT NULL,
        number INTEGER NOT NULL DEFAULT 0,
        gone_ms INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (process, queue)
    ) WITHOUT ROWID;
    CREATE TABLE idle (
        process TEXT NOT NULL,
        queue INTEGER NOT NULL,
        due_ms INTEGER NOT NULL DEFAULT 0,
        woken_ms INTEGER NOT NULL DEFAULT 0,
        no_last_chance INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (process, queue)
    ) WITHOUT ROWID;
    CREATE TABLE producers (
        name TEXT PRIMARY KEY, number INTEGER NOT NULL, part INTEGER NOT NULL, seen_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE results (id TEXT PRIMARY KEY, record BLOB NOT NULL, expires_ms INTEGER) WITHOUT ROWID;
    CREATE INDEX results_expiry ON results (expires_ms) WHERE expires_ms IS NOT NULL;
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue INTEGER NOT NULL,
        level INTEGER NOT NULL,
        dead_ms INTEGER NOT NULL,
        reason TEXT NOT NULL,
        detail BLOB,
        message BLOB NOT NULL
    );
    CREATE INDEX dead_queue ON dead (queue);
    CREATE TABLE missed (id INTEGER PRIMARY KEY, inbox TEXT NOT NULL, missed_ms INTEGER NOT NULL, ids BLOB);
    CREATE INDEX missed_inbox ON missed (inbox);
    """,
    """
    CREATE TABLE joins (
        no INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        id TEXT NOT NULL,
        size INTEGER NOT NULL,
        added INTEGER NOT NULL DEFAULT 0,
        missing INTEGER NOT NULL,
        level INTEGER NOT NULL,
        delay_ms INTEGER NOT NULL,
        due_ms INTEGER NOT NULL,
        body BLOB,
        ended INTEGER NOT NULL DEFAULT 0,
        expires_ms INTEGER,
        UNIQUE (queue, id)
    );
    CREATE INDEX joins_expiry ON joins (expires_ms) WHERE expires_ms IS NOT NULL;
    CREATE TABLE members (
        joined INTEGER NOT NULL,
        place INTEGER NOT NULL,
        id TEXT NOT NULL,
        record BLOB NOT NULL,
        failed TEXT,
        PRIMARY KEY (joined, place, id)
    ) WITHOUT ROWID;
    CREATE TABLE buckets (name TEXT PRIMARY KEY, arrival_us INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE revoked (id TEXT PRIMARY KEY, number INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX revoked_number ON revoked (number);
    """,
    """
    CREATE TABLE terminated (
        id TEXT PRIMARY KEY, number INTEGER NOT NULL, signal TEXT NOT NULL, expires_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX terminated_number ON terminated (number);
    CREATE TABLE paused (
        kind TEXT NOT NULL, name TEXT NOT NULL, since_ms INTEGER NOT NULL, PRIMARY KEY (kind, name)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE ears (socket TEXT PRIMARY KEY, topic TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT, socket TEXT NOT NULL, said_ms INTEGER NOT NULL, message BLOB NOT NULL
    );
    CREATE INDEX letters_socket ON letters (socket);
    CREATE TABLE nodes (
        name TEXT PRIMARY KEY, said_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, info BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE listeners (name TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, expires_ms INTEGER NOT NULL, batch BLOB NOT NULL);
    """,
    """
    CREATE TABLE timetable (
        scope TEXT NOT NULL,
        name TEXT NOT NULL,
        definition BLOB,
        due_ms INTEGER NOT NULL DEFAULT 0,
        paused INTEGER NOT NULL DEFAULT 0,
        edit INTEGER NOT NULL,
        last_due_ms INTEGER NOT NULL DEFAULT 0,
        last_run_ms INTEGER NOT NULL DEFAULT 0,
        runs INTEGER NOT NULL DEFAULT 0,
        fired_by TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (scope, name)
    ) WITHOUT ROWID;
    CREATE INDEX timetable_edit ON timetable (scope, edit);
    CREATE TABLE leaders (scope TEXT PRIMARY KEY, name TEXT NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE delayed ADD COLUMN turn TEXT;
    CREATE INDEX delayed_turn ON delayed (queue, due_ms, turn) WHERE turn IS NOT NULL;
    """,
)
#: of the tables; a newer one is refused, an older one is brought up to this in ``create``
VERSION = len(STEPS)


def names() -> list[str]:
    """Return the names of all tables and indexes."""
    return re.findall(r"CREATE (?:TABLE|INDEX) (\w+)", "".join(STEPS))


def key_base(queue: int, level: int) -> int:
    """Return what to add a place to."""
    return queue << QUEUE_SHIFT | (LAST_LEVEL - level) << PLACE_BITS


def bounds(queue: int) -> tuple[int, int]:
    """Return the first and the last key of a queue."""
    return queue << QUEUE_SHIFT, (queue + 1 << QUEUE_SHIFT) - 1


def level_of(key: int) -> int:
    """Return the level that a key stands in."""
    return LAST_LEVEL - (key >> PLACE_BITS & 0xF)


def check(sql: sqlite3.Connection, path: str) -> int:
    """Return the version of the tables, 0 if there are none.

    Raises ImproperlyConfigured if the file is another application's or of a newer fastq.
    """
    # First the tables, then whose they are: both come with one commit, which another process may make between the two looks.
    used = sql.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    (application,) = sql.execute("PRAGMA application_id").fetchone()
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version > VERSION:
            raise ImproperlyConfigured(
                f"{path} was written by a newer fastq (its tables have version {version}, this one knows up to {VERSION}): "
                "upgrade fastq here too, or name another file."
            )
        return int(version)
    if application or used:
        raise ImproperlyConfigured(f"{path} is the database of another application: give fastq a file of its own.")
    return 0


def create(sql: sqlite3.Connection, path: str) -> None:
    """Make the tables, or those that this version adds. Two processes may come here at once: the second finds them.

    A process of the older version that has the file open goes on undisturbed: what it knows stays as it is.
    """
    sql.execute("BEGIN IMMEDIATE")
    try:
        version = check(sql, path)
        for step in STEPS[version:]:
            for statement in step.split(";"):
                sql.execute(statement)
        if not version:
            sql.execute("INSERT INTO meta VALUES ('identity', ?)", (secrets.token_hex(16),))
            sql.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        sql.execute(f"PRAGMA user_version = {VERSION}")
        sql.execute("COMMIT")
    except BaseException:
        sql.rollback()
        raise
