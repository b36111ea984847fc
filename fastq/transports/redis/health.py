"""Ask a server whether it is fit for use: shortly when a worker starts, and in full for ``fastq doctor``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.keyspace import expected_types
from fastq.transports.redis.scripts import script
from fastq.transports.redis.verdicts import PINGS, Health, eviction, persistence, unfit

__all__ = ["ask", "check_server", "forbidden"]

#: configuration that is looked at
_CONFIG = ("save", "appendfsync", "timeout", "client-output-buffer-limit", "stop-writes-on-bgsave-error", "maxclients")


def check_server(connection: Connection, keys: Keys, url: str, queues: Sequence[str] = ()) -> list[str]:
    """Raise ImproperlyConfigured for a server that cannot keep fastq's promises, or whose keys of these queues are not fastq's;
    return warnings for one that may not. Three round trips; OperationalError: no answer, ask again."""
    health = Health(url)
    try:
        health.info = _info(connection)
        if health.info.get("aof_enabled") == "0":
            health.config = _config(connection, ("save",))
    except OperationalError as error:
        if not forbidden(error):
            raise
    for finding in unfit(health):
        raise ImproperlyConfigured(f"{finding.text}: {finding.advice}.")
    try:
        _try_script(connection)
        _check_types(connection, keys, url, queues)
    except OperationalError as error:
        if forbidden(error):
            raise ImproperlyConfigured(str(error)) from error
        raise
    judged = (*eviction(health), *persistence(health))
    return [f"{finding.text}: {finding.advice}." for finding in judged if finding.level == "warning"]


def forbidden(error: OperationalError) -> bool:
    """Say whether the server knows the command and will not run it, or was told not to know it: asking again does not help."""
    cause = error.__cause__
    text = str(cause).lower()
    words = ("unknown command", "noperm", "no permissions", "can't run this command")
    return type(cause).__name__ == "NoPermissionError" or any(word in text for word in words)


def ask(connection: Connection, url: str) -> Health:
    """Ask for everything that ``findings`` judges. Raises OperationalError if the server does not answer."""
    health = Health(url)
    connection.call([("PING",)])
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        connection.call([("PING",)])
        times.append((time.perf_counter() - began) * 1000)
    health.ping_ms = sorted(times)[PINGS // 2]
    sent = time.time()
    seconds, us = connection.call([("TIME",)])[0]
    health.offset_ms = (int(seconds) + int(us) / 1e6 - (sent + time.time()) / 2) * 1000
    try:
        health.info = _info(connection)
    except OperationalError as error:
        if not forbidden(error):
            raise
    health.config = _config(connection, _CONFIG)
    try:
        _try_script(connection)
    except OperationalError as error:
        if not forbidden(error):
            raise
        health.no_scripts = str(error.__cause__)
    return health


# --- asking ---


def _info(connection: Connection) -> dict[str, str]:
    (text,) = connection.call([("INFO",)])
    lines = text.decode(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines if ":" in line)}


def _config(connection: Connection, names: Sequence[str]) -> dict[str, str] | None:
    """Return configuration; None where the server does not tell: managed ones do not, and not every user may ask."""
    try:
        replies = connection.call([("CONFIG", "GET", name) for name in names])
    except OperationalError as error:
        if not forbidden(error):
            raise
        return None
    return {name: reply[1].decode(errors="replace") for name, reply in zip(names, replies, strict=True) if len(reply) == 2}


def _try_script(connection: Connection) -> None:
    """Run a script both ways: by its text, and by its digest."""
    connection.call([("EVAL", "return 1", 0)])
    connection.run(script("time"), (), ())


def _check_types(connection: Connection, keys: Keys, url: str, queues: Sequence[str]) -> None:
    """Refuse keys of these queues that hold something else: a call that meets one fails before it changes anything, every time."""
    expected = [item for queue in queues for item in expected_types(keys, queue)]
    if not expected:
        return
    types = connection.call([("TYPE", name) for name, _ in expected])
    for (name, kind), found in zip(expected, types, strict=True):
        seen = found.decode()
        if seen not in ("none", kind):
            raise ImproperlyConfigured(
                f"The key {name} at {url} is a {seen}, and fastq keeps a {kind} there: another program uses the same names. "
                "Give this application another key_prefix, or remove the key."
            )
