"""Look at every key under the prefix: is it one of fastq's, of the right type, with a TTL where it must have one?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastq.transports.base import Finding, Level, Scope, TransportOptions
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.keyspace import Place, place

__all__ = ["Scan"]

#: keys per SCAN step
STEP = 1000

#: keys of others that are passed over for each one that may be looked at: SCAN walks through the whole database
OTHERS = 10

#: findings of one code that are told one by one; what follows is counted
EACH = 10

#: joins that are followed at most: each is looked for in all messages
JOINS = 1000

#: what the keys of another fastq look like, whose prefix begins with this one
_OTHER_FASTQ = re.compile(
    r"^(?P<prefix>[^{]*)(\{.+\}:(ready:\d|levels$|delayed$|leased:|leases$|idle$|dead|from:|join:)|results:[0-9a-f]{9}$|revoked$)"
)


class Scan:
    """One pass over the keys, in steps of SCAN, at most as many as the scope allows."""

    def __init__(self, connection: Connection, keys: Keys, options: TransportOptions, scope: Scope) -> None:
        self._connection = connection
        self._keys = keys
        self._options = options
        self._scope = scope
        #: under the prefix
        self.looked = 0
        self.queues: set[str] = set()
        #: those with entries
        self.timetables: set[str] = set()
        #: queues of which a key has the wrong type: nothing more is asked about them
        self.unusable: set[str] = set()
        #: (queue, process) of each hash of leased messages
        self.holders: list[tuple[str, str]] = []
        #: (queue, id) of each join without a TTL
        self.joins: list[tuple[str, str]] = []
        #: keys that lack the TTL that they must have
        self.without_ttl: list[str] = []
        self._counts: dict[str, int] = {}

    def run(self) -> Iterator[Finding]:
        cursor = b"0"
        seen: set[bytes] = set()
        passed = 0
        while True:
            cursor, found = self._connection.call([("SCAN", cursor, "MATCH", self._pattern(), "COUNT", STEP)])[0]
            # SCAN may return a key twice
            names = [name for name in dict.fromkeys(found) if name not in seen][: max(0, self._scope.limit - self.looked)]
            seen.update(names)
            self.looked += len(names)
            if names:
                yield from self._look(names)
            if cursor == b"0":
                break
            passed += STEP
            if self.looked >= self._scope.limit or passed >= OTHERS * self._scope.limit:
                total = self._connection.call([("DBSIZE",)])[0]
                yield Finding(
                    "note",
                    "limit-reached",
                    self._keys.prefix,
                    f"only {self.looked:,} keys were looked at: the database has {total:,}, of this and of other programs",
                    "raise --limit to see all",
                )
                break
        for code, count in self._counts.items():
            if count > EACH:
                level, what = _SUMMARIES[code]
                yield Finding(level, code, f"{self._keys.prefix}*", f"{count - EACH:,} more {what}", "as above")

    def _pattern(self) -> str:
        return "".join(f"\\{char}" if char in "*?[]\\^" else char for char in self._keys.prefix) + "*"

    def _look(self, names: list[bytes]) -> Iterator[Finding]:
        replies = self._connection.call([command for name in names for command in (("TYPE", name), ("PTTL", name))])
        for i, raw in enumerate(names):
            type, ttl_ms = replies[2 * i].decode(), replies[2 * i + 1]
            if type == "none":
                continue  # gone meanwhile
            name = raw.decode(errors="backslashreplace")
            at = place(self._keys, name)
            if at is not None and at.queue and self._scope.queues and at.queue not in self._scope.queues:
                continue
            finding = self._foreign(name, type) if at is None else self._known(name, at, type, ttl_ms)
            if finding is not None:
                self._counts[finding.code] = count = self._counts.get(finding.code, 0) + 1
                if count <= EACH:
                    yield finding

    def _known(self, name: str, at: Place, type: str, ttl_ms: int) -> Finding | None:
        if at.queue:
            self.queues.add(at.queue)
        if type != at.of.type:
            if at.queue:
                self.unusable.add(at.queue)
            return Finding(
                "error",
                "wrong-type",
                name,
                f"this key is a {type}, and fastq keeps a {at.of.type} there: each call that meets it fails, and changes nothing",
                "another program uses the same names: give this application another key_prefix, or remove the key",
            )
        if at.kind == "timetable:states":
            self.timetables.add(at.owner)
        elif at.kind == "leased":
            self.holders.append((at.queue, at.owner))
        elif at.kind == "join" and ttl_ms == -1 and len(self.joins) < JOINS:
            self.joins.append((at.queue, at.owner))
        if at.of.ttl == "never" and ttl_ms >= 0:
            return Finding(
                "error",
                "unexpected-ttl",
                name,
                f"this key expires in {ttl_ms / 1000:,.0f} s, and fastq never sets that: what it holds will be lost",
                f"PERSIST {name}, and find out what has set it",
            )
        if at.of.ttl == "must" and ttl_ms == -1 and not (at.kind.startswith("result") and self._options.result_expires_s is None):
            self.without_ttl.append(name)
            return Finding(
                "warning",
                "missing-ttl",
                name,
                "this key has no TTL, and nothing will remove it",
                "run fastq doctor --fix, which gives it one; results have none if they were stored under result_expires=None",
            )
        return None

    def _foreign(self, name: str, type: str) -> Finding:
        other = _OTHER_FASTQ.match(name[len(self._keys.prefix) :])
        if other is not None and other["prefix"]:
            prefix = self._keys.prefix + other["prefix"]
            return Finding(
                "note",
                "nested-prefix",
                name,
                f"this key belongs to a fastq application with the key_prefix {prefix!r}, which begins with this one's",
                "nothing: both work; prefixes of which none begins with the other are easier to look at",
            )
        return Finding(
            "warning",
            "foreign-key",
            name,
            f"this is a {type}, and fastq makes no key of that name",
            "if another program uses this prefix, give one of the two another; else look what it is, and remove it",
        )


_SUMMARIES: dict[str, tuple[Level, str]] = {
    "foreign-key": ("warning", "keys that fastq does not make"),
    "nested-prefix": ("note", "keys of applications with a longer key_prefix"),
    "wrong-type": ("error", "keys of a wrong type"),
    "unexpected-ttl": ("error", "keys with a TTL that they must not have"),
    "missing-ttl": ("warning", "keys without the TTL that they must have"),
}
