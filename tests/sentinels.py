"""A primary, a replica and sentinels on loopback, for tests of failovers."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from tests.servers import RedisServer
from tests.workers import eventually

__all__ = ["NAME", "Watched"]

#: the primary's name among the sentinels
NAME = "mymaster"


class Watched:
    """Two servers that replicate, and sentinels that watch them. Everything is stopped at the end, by pid."""

    def __init__(self, directory: Path, *, sentinels: int = 3, password: str = "", sentinel_password: str = "", down_ms: int = 500):
        self.directory = directory
        login = ["--requirepass", password, "--masterauth", password] if password else []
        # a failover must not wait for a disk, and a replica that has just come must be synchronous at once
        options = [*login, "--repl-diskless-sync-delay", "0", "--appendonly", "no"]
        self.password = password
        self._stack = contextlib.ExitStack()
        with self._stack:  # closed here if something does not start
            first = self._stack.enter_context(RedisServer(directory / "one", *options))
            second = self._stack.enter_context(
                RedisServer(directory / "two", *options, "--replicaof", "127.0.0.1", str(first.port))
            )
            self.servers = [first, second]
            eventually(lambda: self.info(second)["master_link_status"] == "up", "the replica in step")
            self.sentinels = [
                self._stack.enter_context(self._sentinel(number, first.port, sentinels // 2 + 1, sentinel_password, down_ms))
                for number in range(sentinels)
            ]
            self.sentinel_password = sentinel_password
            eventually(self._settled, "the sentinels knowing the replica and each other")
            self._stack = self._stack.pop_all()

    def _sentinel(self, number: int, port: int, quorum: int, password: str, down_ms: int) -> RedisServer:
        folder = self.directory / f"sentinel{number}"
        folder.mkdir(parents=True)
        lines = [
            f"sentinel monitor {NAME} 127.0.0.1 {port} {quorum}",
            f"sentinel down-after-milliseconds {NAME} {down_ms}",
            f"sentinel failover-timeout {NAME} 5000",
            f"sentinel parallel-syncs {NAME} 1",
        ]
        if self.password:
            lines.append(f"sentinel auth-pass {NAME} {self.password}")
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        return Sentinel(folder, lines)

    @property
    def url(self) -> str:
        hosts = ";".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{self.password}@" if self.password else ""
        query = f"?sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        return f"sentinel://{login}{hosts}/{NAME}{query}"

    def info(self, server: RedisServer) -> dict[str, Any]:
        with contextlib.closing(server.client(password=self.password or None)) as client:
            found: dict[str, Any] = client.info("replication")
            return found

    def role(self, server: RedisServer) -> str:
        return str(self.info(server)["role"])

    def named(self, sentinel: RedisServer) -> int:
        """Return the port of the primary that a sentinel names."""
        with contextlib.closing(sentinel.client(password=self.sentinel_password or None)) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    @property
    def primary(self) -> RedisServer:
        """The server that the first sentinel names."""
        port = self.named(self.sentinels[0])
        return next(server for server in self.servers if server.port == port)

    def _settled(self) -> bool:
        """Say whether the sentinels know each other, and the replica as one that can be promoted."""
        for sentinel in self.sentinels:
            with contextlib.closing(sentinel.client(password=self.sentinel_password or None)) as client:
                primary = _row(client.execute_command("SENTINEL", "MASTER", NAME))
                replicas = [_row(reply) for reply in client.execute_command("SENTINEL", "SLAVES", NAME)]
            others = primary["num-other-sentinels"] == str(len(self.sentinels) - 1)
            if not others or [replica["master-link-status"] for replica in replicas] != ["ok"]:
                return False
        return True

    def switch(self) -> RedisServer:
        """Have the replica promoted; return it when all sentinels name it."""
        old = self.primary
        with contextlib.closing(self.sentinels[0].client(password=self.sentinel_password or None)) as client:
            client.execute_command("SENTINEL", "FAILOVER", NAME)
        return self._promoted(old)

    def kill_primary(self) -> RedisServer:
        """Kill the primary and return the promoted replica."""
        old = self.primary
        old.kill(signal.SIGKILL)
        return self._promoted(old)

    def _promoted(self, old: RedisServer) -> RedisServer:
        (new,) = [server for server in self.servers if server is not old]
        eventually(lambda: all(self.named(sentinel) == new.port for sentinel in self.sentinels), "a new primary")
        eventually(lambda: self.role(new) == "master", "the replica promoted")
        return new

    def in_step(self, primary: RedisServer) -> None:
        """Wait until the replica has all that the primary has now."""
        with contextlib.closing(primary.client(password=self.password or None)) as client:
            client.set("in-step", os.urandom(4))
            eventually(lambda: client.wait(1, 1000) >= 1, "the replica in step")
            client.delete("in-step")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


class Sentinel(RedisServer):
    """A sentinel: the server with a configuration file, which it rewrites."""

    def __init__(self, directory: Path, lines: list[str]) -> None:
        self._lines = lines
        super().__init__(directory)

    def command(self) -> list[str]:
        path = self.directory / "sentinel.conf"
        if not path.exists():
            path.write_text("\n".join(self._lines) + "\n")
        return [
            *(self.executable, str(path), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", self.socket_path, "--dir", str(self.directory), "--daemonize", "no"),
        ]


def _row(reply: Any) -> dict[str, str]:
    """Return what a sentinel says of an instance; some versions of the client have made a mapping of it."""
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in items}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
