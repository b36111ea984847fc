"""What fastq doctor says of a Redis server, judged from what the server says of itself."""

from __future__ import annotations

import pytest

from fastq.transports.redis.verdicts import Health, findings

INFO = {
    "redis_version": "7.4.1",
    "maxmemory_policy": "noeviction",
    "maxmemory": str(1 << 30),
    "used_memory": str(1 << 20),
    "total_system_memory": str(1 << 34),
    "aof_enabled": "1",
    "cluster_enabled": "0",
    "role": "master",
    "connected_clients": "10",
    "maxclients": "10000",
    "evicted_keys": "0",
    "rejected_connections": "0",
    "rdb_last_bgsave_status": "ok",
    "aof_last_write_status": "ok",
    "loading": "0",
}
CONFIG = {
    "save": "",
    "appendfsync": "everysec",
    "timeout": "0",
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    "stop-writes-on-bgsave-error": "yes",
    "maxclients": "10000",
}


def codes(info: dict[str, str] | None = None, config: dict[str, str] | None = None, **values: object) -> list[tuple[str, str]]:
    health = Health("redis://h", INFO | (info or {}), CONFIG | (config or {}), **values)  # type: ignore[arg-type]
    return [(finding.level, finding.code) for finding in findings(health)]


def test_a_server_set_up_for_queues_gives_no_finding() -> None:
    assert codes() == []


@pytest.mark.parametrize(
    ("info", "config", "expected"),
    [
        ({"redis_version": "6.0.16"}, {}, ("error", "server-too-old")),
        ({"valkey_version": "7.0.1"}, {}, ("error", "server-too-old")),
        ({"redis_version": "7.0.15"}, {}, ("note", "server-aging")),
        ({"maxmemory_policy": "allkeys-lru"}, {}, ("error", "evicts-keys")),
        ({"maxmemory_policy": "volatile-ttl"}, {}, ("warning", "evicts-results")),
        ({"cluster_enabled": "1"}, {}, ("error", "cluster-mode")),
        ({"role": "slave"}, {}, ("error", "read-only-replica")),
        ({"aof_enabled": "0"}, {}, ("warning", "persistence-off")),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, ("note", "snapshots-only")),
        ({}, {"appendfsync": "no"}, ("warning", "fsync-off")),
        ({"rdb_last_bgsave_status": "err"}, {}, ("error", "save-failed")),
        ({"rdb_last_bgsave_status": "err"}, {"stop-writes-on-bgsave-error": "no"}, ("warning", "save-failed")),
        ({"aof_last_write_status": "err"}, {"stop-writes-on-bgsave-error": "no"}, ("error", "save-failed")),
        ({"maxmemory": "0"}, {}, ("note", "maxmemory-unset")),
        ({"maxmemory": "0", "used_memory": str(1 << 34)}, {}, ("warning", "memory-nearly-full")),
        ({"used_memory": str(1 << 30)}, {}, ("warning", "memory-nearly-full")),
        ({"evicted_keys": "3"}, {}, ("warning", "keys-evicted")),
        ({"rejected_connections": "3"}, {}, ("warning", "connections-rejected")),
        ({"connected_clients": "9900"}, {}, ("warning", "clients-nearly-full")),
        ({}, {"timeout": "30"}, ("note", "idle-timeout")),
        ({}, {"client-output-buffer-limit": "normal 0 0 0 pubsub 65536 0 0"}, ("warning", "pubsub-buffer-small")),
        ({"loading": "1"}, {}, ("warning", "server-loading")),
    ],
)
def test_each_thing_that_is_wrong_with_a_server_is_one_finding(
    info: dict[str, str], config: dict[str, str], expected: tuple[str, str]
) -> None:
    assert codes(info, config) == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ping_ms": 35.0}, ("warning", "server-slow")),
        ({"offset_ms": -1500.0}, ("warning", "clocks-differ")),
        ({"no_scripts": "no permissions"}, ("error", "scripts-forbidden")),
    ],
)
def test_what_was_measured_is_judged_too(values: dict[str, object], expected: tuple[str, str]) -> None:
    assert codes(**values) == [expected]


def test_a_server_that_tells_no_configuration_is_not_accused() -> None:
    managed = Health("redis://h", INFO | {"aof_enabled": "0"}, None)
    assert [finding.code for finding in findings(managed)] == []
    silent = Health("redis://h")
    assert [(finding.level, finding.code) for finding in findings(silent)] == [("note", "server-silent")]


def test_a_server_for_results_alone_may_forget() -> None:
    assert [finding.code for finding in findings(Health("redis://h", INFO | {"aof_enabled": "0"}, CONFIG), messages=False)] == []
