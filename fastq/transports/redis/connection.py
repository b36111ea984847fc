"""One connection to one Redis server: a whole pipeline per call, opened anew after any error."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastq import patience
from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.redis.address import Address
from fastq.transports.redis.errors import answered, code_of, explain
from fastq.transports.redis.scripts import Script, script
from fastq.transports.redis.sentinel import Scout
from fastq.transports.redis.sockets import RawConnection, open_raw

__all__ = ["Connection"]


class Connection:
    """A connection that is opened at the first call, and again at the first call after any error.

    Used by one thread or greenlet at a time, and not across a fork.
    """

    def __init__(self, address: Address, options: TransportOptions, role: str) -> None:
        self.address = address
        self.role = role
        self._options = options
        self._raw: RawConnection | None = None
        #: when it was last opened, Unix s; 0: never
        self.opened_at = 0.0
        #: the server that sentinels named, as host:port; "" where the address itself says where it is
        self._at = ""
        #: who tells when that is not the primary any more
        self._scout: Scout | None = None
        #: answers are waited for less long than usual
        self._hurried = False
        #: commands that were sent again because the server did not know their script: they ran behind what followed them
        self.repeated = 0
        self._pack: Callable[[tuple[Any, ...]], bytes]

    def __repr__(self) -> str:
        return f"<Connection to {self.address.display} for {self.role}>"

    @property
    def is_open(self) -> bool:
        return self._raw is not None

    def raw_or_none(self) -> RawConnection | None:
        """Return what is connected, if it is."""
        return self._raw

    def send(self, *command: Any) -> None:
        """Send one command and leave its reply to the reader of a subscription; does not connect."""
        if self._raw is None:
            raise OperationalError(f"The connection to {self.address.display} is not open.")
        try:
            self._raw.send_packed_command([self._pack(command)], check_health=False)
        except Exception as error:
            self.close()
            raise self.explained(error) from error

    def call(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one write and return their replies in order.

        A command that begins with a Script runs it: (script, number of keys, key ..., argument ...). It is sent by its digest;
        where the server does not know it nothing has run, and that command alone is sent again with the text. Error replies
        raise, after all replies are read. Any error closes the connection and is raised as OperationalError.
        """
        try:
            if self._scout is not None:
                self.check_place()
            raw = self._raw or self._open()
            if self._hurried or patience.deadline() is not None:
                self._hurry(raw)
            pack = self._pack
            packed = [pack(_by_digest(command)) for command in commands]
            raw.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)], check_health=False)
            replies: list[Any] = []
            failed = False
            for _ in commands:
                try:
                    replies.append(raw.read_response())
                except Exception as error:
                    if not answered(error):
                        raise
                    # The server's own answer: the replies behind it are still to be read.
                    replies.append(error)
                    failed = True
            if failed:
                for i, reply in enumerate(replies):
                    if isinstance(reply, Exception):
                        replies[i] = self._again(raw, commands[i], reply)
            return replies
        except OperationalError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise self.explained(error) from error
        except BaseException:
            # A timeout of gevent, KeyboardInterrupt: replies may still be on their way, so this connection is spent.
            self.close()
            raise

    def run(self, name: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run one script."""
        return self.call([(name, len(keys), *keys, *arguments)])[0]

    def clock_ms(self) -> int:
        """Ask for the server's clock, Unix ms."""
        return int(self.run(script("time"), (), ()))

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.disconnect()
        scout, self._scout = self._scout, None
        if scout is not None:
            scout.close()

    def _again(self, raw: RawConnection, command: tuple[Any, ...], error: Exception) -> Any:
        if not isinstance(command[0], Script) or code_of(error) != "NOSCRIPT":
            raise error
        self.repeated += 1
        raw.send_packed_command([self._pack(("EVAL", command[0].text, *command[1:]))], check_health=False)
        return raw.read_response()

    def check_place(self) -> None:
        """Raise OperationalError if the sentinels may have made another server the primary; without sentinels never.

        As for a lost connection, and not quietly: the caller has to compare what both sides know. Nothing was sent.
        """
        if self._scout is not None and self._scout.moved():
            at = self._at
            self.close()
            raise OperationalError(
                f"Redis at {at} may not be the primary of {self.address.display} any more: the sentinels are asked again at the "
                "next call."
            )

    @property
    def watches(self) -> bool:
        """Say whether ``check_place`` may have something to say."""
        return self._scout is not None

    def _hurry(self, raw: RawConnection) -> None:
        """Let this call wait no longer for its answer than its caller can; or, after such a call, as long as others may again."""
        self._hurried = patience.deadline() is not None
        if raw._sock is not None:
            raw._sock.settimeout(patience.limit_s(self._options.socket_timeout_s))

    def explained(self, error: Exception) -> OperationalError:
        """Return the error to raise for one of the client's."""
        return explain(error, self.address, self._at)

    def _open(self) -> RawConnection:
        address = self.address
        self._at = ""
        if address.sentinels is None:
            raw = self._connect(address.host, address.port)
        else:
            raw, self._at, self._scout = address.sentinels.reach(self._connect_and_ask, self._options)
        try:
            # Straight to hiredis: on the way redis-py looks at every argument, 0.1 us each.
            from hiredis import pack_command  # lazy: may be missing

            self._pack = pack_command
        except ImportError:
            self._pack = lambda words: b"".join(raw.pack_command(*words))
        self._raw = raw
        self.opened_at = time.time()
        return raw

    def _connect(self, host: str, port: int) -> RawConnection:
        address, options = self.address, self._options
        try:
            return open_raw(
                host=host,
                port=port,
                path=address.path,
                ssl=address.ssl,
                username=address.username,
                password=address.password,
                db=address.db,
                client_name=f"fastq:{self.role}",
                connect_timeout_s=patience.limit_s(options.connect_timeout_s),
                socket_timeout_s=patience.limit_s(options.socket_timeout_s),
            )
        except Exception as error:
            raise explain(error, address, f"{host}:{port}") from error

    def _connect_and_ask(self, host: str, port: int) -> tuple[RawConnection, str]:
        """Connect, and ask the server whether it is the primary: "master", or else what it is."""
        raw = self._connect(host, port)
        try:
            raw.send_packed_command(raw.pack_command("ROLE"), check_health=False)
            return raw, str(raw.read_response()[0].decode())
        except Exception as error:
            raw.disconnect()
            raise explain(error, self.address, f"{host}:{port}") from error
        except BaseException:
            raw.disconnect()
            raise


def _by_digest(command: tuple[Any, ...]) -> tuple[Any, ...]:
    head = command[0]
    return ("EVALSHA", head.sha, *command[1:]) if isinstance(head, Script) else command
