"""What is wrong with a Redis server, judged from what it says of itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fastq.transports.base import Finding

__all__ = ["PINGS", "Health", "eviction", "findings", "persistence", "unfit"]

#: first versions that have all commands; what is older than the second column is no longer maintained by its makers
OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
MAINTAINED = {"Redis": (7, 2), "Valkey": (7, 2)}

#: pings whose median is the latency
PINGS = 10
#: ms; a settle and fetch cost a worker one such round trip
SLOW_MS = 20.0
#: ms by which clocks may differ before somebody wonders about times in results and logs
CLOCKS_MS = 1_000
#: shares of a limit
NEARLY = 0.9
#: seconds after which a closed idle connection costs more than it saves
IDLE_TIMEOUT_S = 60


@dataclass(slots=True)
class Health:
    """What a server says of itself."""

    #: as for display
    url: str
    info: Mapping[str, str] = field(default_factory=dict)
    #: None: the server does not tell (a managed one, or the user may not ask)
    config: Mapping[str, str] | None = None
    #: median of a few pings
    ping_ms: float = 0.0
    #: the server's clock minus this machine's
    offset_ms: float = 0.0
    #: why scripts cannot be run, "" if they can
    no_scripts: str = ""

    @property
    def name(self) -> str:
        return "Valkey" if "valkey_version" in self.info else "Redis"

    @property
    def version(self) -> str:
        return self.info.get("valkey_version") or self.info.get("redis_version", "")

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) if part.isdigit() else 0 for part in self.version.split(".")[:2])

    @property
    def where(self) -> str:
        return f"{self.name} at {self.url}"

    def number(self, name: str) -> int:
        text = self.info.get(name, "0")
        return int(text) if text.lstrip("-").isdigit() else 0

    @property
    def persistent(self) -> bool | None:
        """Say whether anything is written to disk; None: unknown."""
        if self.info.get("aof_enabled") == "1":
            return True
        if self.config is None or "save" not in self.config:
            return None
        return bool(self.config["save"].strip())


def findings(health: Health, *, messages: bool = True) -> Iterator[Finding]:
    """Judge a server. ``messages``: queues are kept there, not only results."""
    if not health.info:
        yield Finding(
            "note",
            "server-silent",
            health.url,
            f"{health.where} does not let this user ask for INFO: version, eviction and persistence could not be checked",
            "allow INFO and CONFIG GET, or run fastq doctor as a user that has them",
        )
    yield from unfit(health)
    yield from eviction(health)
    if messages:
        yield from persistence(health)
    yield from _memory(health)
    yield from _connections(health)
    yield from _surroundings(health)
    numbers = health.numbers
    if OLDEST[health.name] <= numbers < MAINTAINED[health.name]:
        yield Finding(
            "note",
            "server-aging",
            health.url,
            f"{health.where} has version {health.version}, which its makers may not maintain any more",
            "plan an upgrade; fastq works with it",
        )


# --- groups of findings ---


def unfit(health: Health) -> Iterator[Finding]:
    """Find what a worker refuses to start with."""
    info, where = health.info, health.where
    oldest = OLDEST[health.name]
    if health.version and health.numbers < oldest:
        yield Finding(
            "error",
            "server-too-old",
            health.url,
            f"{health.name} {health.version} at {health.url} is too old",
            "fastq needs Redis 6.2 or later, or Valkey 7.2 or later",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys-"):
        yield Finding(
            "error",
            "evicts-keys",
            "maxmemory-policy",
            f"{where} may evict any key when memory is short (maxmemory-policy {policy}), queues and leases too",
            "set maxmemory-policy to noeviction",
        )
    if info.get("cluster_enabled") == "1":
        yield Finding(
            "error",
            "cluster-mode",
            health.url,
            f"{where} runs in cluster mode, which fastq does not know yet",
            "use a server with cluster-enabled no",
        )
    if health.no_scripts:
        yield Finding(
            "error",
            "scripts-forbidden",
            health.url,
            f"{where} does not let this user run scripts ({health.no_scripts})",
            "allow EVAL and EVALSHA (ACL category @scripting), and take rename-command for them out of redis.conf",
        )


def eviction(health: Health) -> Iterator[Finding]:
    policy = health.info.get("maxmemory_policy", "noeviction")
    if policy.startswith("volatile-") and health.number("maxmemory"):
        yield Finding(
            "warning",
            "evicts-results",
            "maxmemory-policy",
            f"{health.where} may evict keys with a TTL when memory is short (maxmemory-policy {policy}): stored results, and the "
            "numbers by which a repeated publish is recognised",
            "set maxmemory-policy to noeviction",
        )


def persistence(health: Health) -> Iterator[Finding]:
    info, where, config = health.info, health.where, health.config or {}
    if health.persistent is False:
        yield Finding(
            "warning",
            "persistence-off",
            "appendonly",
            f"{where} writes nothing to disk (appendonly no, save \"\"): accepted tasks are lost if it restarts",
            "set appendonly yes, with appendfsync everysec",
        )
    elif health.persistent and info.get("aof_enabled") == "0":
        yield Finding(
            "note",
            "snapshots-only",
            "appendonly",
            f"{where} only saves snapshots (save {config.get('save', '')!r}): what was accepted since the last one is lost if it "
            "crashes",
            "set appendonly yes, with appendfsync everysec, to lose a second at most",
        )
    if info.get("aof_enabled") == "1" and config.get("appendfsync") == "no":
        yield Finding(
            "warning",
            "fsync-off",
            "appendfsync",
            f"{where} leaves it to the system when its append-only file reaches the disk: half a minute may be lost with the power",
            "set appendfsync everysec",
        )
    failed = [name for name in ("rdb_last_bgsave_status", "aof_last_write_status") if info.get(name, "ok") != "ok"]
    if failed:
        stops = config.get("stop-writes-on-bgsave-error") == "yes" or "aof_last_write_status" in failed
        yield Finding(
            "error" if stops else "warning",
            "save-failed",
            failed[0],
            f"the last write of {where} to its disk failed" + ("; until one succeeds it refuses every change" if stops else ""),
            "look into the server's log; most often the disk is full or the directory is not writable",
        )


def _memory(health: Health) -> Iterator[Finding]:
    most, used = health.number("maxmemory"), health.number("used_memory")
    if not most and "maxmemory" in health.info:
        total = health.number("total_system_memory")
        if total and used > NEARLY * total:
            yield Finding(
                "warning",
                "memory-nearly-full",
                "maxmemory",
                f"{health.where} uses {used >> 20:,} MiB of the machine's {total >> 20:,} MiB, and has no maxmemory",
                "set maxmemory: then publishing is refused with a clear error before the system kills the server",
            )
        else:
            yield Finding(
                "note",
                "maxmemory-unset",
                "maxmemory",
                f"{health.where} has no maxmemory: a backlog may grow until the system kills the server",
                "set maxmemory (with maxmemory-policy noeviction): then publishing is refused with a clear error, and work drains",
            )
    elif most and used > NEARLY * most:
        yield Finding(
            "warning",
            "memory-nearly-full",
            "maxmemory",
            f"{health.where} uses {used >> 20:,} of {most >> 20:,} MiB (maxmemory): when it is full, publishing is refused",
            "raise maxmemory, start more workers, or keep results for a shorter time (result_expires)",
        )
    if evicted := health.number("evicted_keys"):
        yield Finding(
            "warning",
            "keys-evicted",
            "evicted_keys",
            f"{health.where} has evicted {evicted:,} keys since it started; tasks or results may have been among them",
            "set maxmemory-policy to noeviction; CONFIG RESETSTAT sets the counter back",
        )


def _connections(health: Health) -> Iterator[Finding]:
    config = health.config or {}
    if rejected := health.number("rejected_connections"):
        yield Finding(
            "warning",
            "connections-rejected",
            "rejected_connections",
            f"{health.where} has turned away {rejected:,} connections since it started, for it had maxclients already",
            "raise maxclients; CONFIG RESETSTAT sets the counter back",
        )
    most = health.number("maxclients") or int(config.get("maxclients", "0") or 0)
    clients = health.number("connected_clients")
    if most and clients > NEARLY * most:
        yield Finding(
            "warning",
            "clients-nearly-full",
            "maxclients",
            f"{health.where} has {clients:,} connections and allows {most:,} (maxclients)",
            "raise maxclients; a worker process keeps three connections, a producer process two",
        )
    idle_s = config.get("timeout", "0")
    if idle_s.isdigit() and 0 < int(idle_s) < IDLE_TIMEOUT_S:
        yield Finding(
            "note",
            "idle-timeout",
            "timeout",
            f"{health.where} closes connections that are idle for {idle_s} s: clients connect again each time",
            "set timeout 0; dead connections are found by tcp-keepalive",
        )
    limit = _pubsub_limit(config.get("client-output-buffer-limit", ""))
    if limit is not None and 0 < limit < 1 << 20:
        yield Finding(
            "warning",
            "pubsub-buffer-small",
            "client-output-buffer-limit",
            f"{health.where} cuts off a subscriber that is {limit:,} bytes behind, and a batch of results may be larger",
            "set client-output-buffer-limit 'pubsub 32mb 8mb 60', the default",
        )


def _surroundings(health: Health) -> Iterator[Finding]:
    info = health.info
    if info.get("role") == "slave":
        yield Finding(
            "error",
            "read-only-replica",
            health.url,
            f"{health.where} is a replica of {info.get('master_host', '?')}:{info.get('master_port', '?')}, and read-only",
            "use the URL of the primary",
        )
    if info.get("loading") == "1":
        yield Finding(
            "warning",
            "server-loading",
            health.url,
            f"{health.where} is loading its data set into memory",
            "wait until it has finished, and look again",
        )
    if abs(health.offset_ms) > CLOCKS_MS:
        side = "ahead of" if health.offset_ms > 0 else "behind"
        yield Finding(
            "warning",
            "clocks-differ",
            health.url,
            f"the clock of {health.where} is {abs(health.offset_ms) / 1000:.1f} s {side} this machine's",
            "set both by NTP: an eta that you compute is compared with the server's clock",
        )
    if health.ping_ms > SLOW_MS:
        yield Finding(
            "warning",
            "server-slow",
            health.url,
            f"{health.where} takes {health.ping_ms:.0f} ms to answer a PING (median of {PINGS})",
            "look at the network, at SLOWLOG GET, and whether something else keeps the server's one thread busy",
        )


def _pubsub_limit(text: str) -> int | None:
    """Return the hard limit of subscribers out of "normal 0 0 0 slave ... pubsub 33554432 8388608 60"."""
    words = text.split()
    at = words.index("pubsub") + 1 if "pubsub" in words else len(words)
    return int(words[at]) if at < len(words) and words[at].isdigit() else None
