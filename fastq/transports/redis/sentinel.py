"""Ask sentinels where the primary is, at every connect: after a failover it is somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.redis.sockets import RawConnection, open_raw

__all__ = ["Reached", "Scout", "Sentinels"]

#: word of a new primary: the sentinel that promotes it says the first, all say the second, the others up to 2 s later
CHANNELS = ("+promoted-slave", "+switch-master")

#: connects to host and port; returns the connection and the server's role, raises OperationalError
Connect = Callable[[str, int], tuple[RawConnection, str]]

#: a sentinel that is away costs at least that long, seconds, unless connecting as a whole may take less
SHORTEST_WAIT_S = 0.5


class Sentinels:
    """The sentinels of one primary. Several connections, of any threads, may share it."""

    def __init__(
        self,
        name: str,
        places: tuple[tuple[str, int], ...],
        *,
        username: str | None = None,
        password: str | None = None,
        ssl: Mapping[str, object] | None = None,
        timeout_s: float | None = None,
        display: str = "",
    ) -> None:
        self.name = name
        self.places = places
        self.known = frozenset(places)
        self.ssl = ssl
        self._username = username
        self._password = password
        self._timeout_s = timeout_s
        self._display = display
        #: index of the one that knew last: it is asked first
        self._first = 0

    def __repr__(self) -> str:
        return f"<Sentinels of {self.name}: {_listed(self.places)}>"

    def reach(self, connect: Connect, options: TransportOptions) -> Reached:
        """Return an open connection to the primary.

        The sentinels are asked in turn. What one of them names is believed only if that server says itself that it is the
        primary: a sentinel that was cut off from the others still names the old one. ``connect`` connects to a server and asks
        for its role ("master" is the primary's); it raises OperationalError.
        """
        silent: list[str] = []
        ignorant: list[str] = []
        known: set[str] = set()
        tried: set[tuple[str, int]] = set()
        refusal: OperationalError | None = None
        count = len(self.places)
        for turn in range(count):
            index = (self._first + turn) % count
            host, port = self.places[index]
            try:
                scout, place, names = self._ask(host, port, options)
            except Exception as error:  # the search must go on with the next one
                silent.append(f"{host}:{port} {_reason(error)}")
                continue
            try:
                if scout is None or place is None:
                    ignorant.append(f"{host}:{port}")
                    known.update(names)
                    continue
                if place in tried:
                    continue
                tried.add(place)
                raw, role = connect(*place)
                if role == "master":
                    self._first = index
                    reached = Reached(raw, f"{place[0]}:{place[1]}", scout)
                    scout = None
                    return reached
                raw.disconnect()
                refusal = OperationalError(
                    f"Redis at {place[0]}:{place[1]}, which the sentinel {host}:{port} names as the primary {self.name!r}, says "
                    f"that it is a {role}: a failover is probably under way, try again."
                )
            except OperationalError as error:
                refusal = error
            finally:
                if scout is not None:
                    scout.close()
        if refusal is not None:
            raise refusal
        if ignorant:
            others = f"the names known there are {', '.join(sorted(known))}" if known else "no names are known there"
            raise OperationalError(
                f"No primary named {self.name!r} is known to the sentinels {', '.join(ignorant)} ({others}): correct the name in "
                f"{self._display}, or master_name in the transport options."
                + (f" Others did not answer: {'; '.join(silent)}." if silent else "")
            )
        raise OperationalError(
            f"No sentinel of {self._display} tells where the primary {self.name!r} is ({'; '.join(silent)}): check that they run "
            "there and are reachable."
        )

    def _ask(self, host: str, port: int, options: TransportOptions) -> tuple[Scout | None, tuple[str, int] | None, list[str]]:
        """Ask one sentinel: where it believes the primary to be, and who tells when that changes; or, if it knows none of this
        name, the names that it knows."""
        longest_s = options.connect_timeout_s
        wait_s = min(longest_s, max(SHORTEST_WAIT_S, self._timeout_s or longest_s / len(self.places)))
        raw = open_raw(
            host=host,
            port=port,
            ssl=self.ssl,
            username=self._username,
            password=self._password,
            connect_timeout_s=wait_s,
            socket_timeout_s=wait_s,
        )
        try:
            # In one write, so that nothing can change between the two.
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
            found, *_ = _answers(raw, question, *[("SUBSCRIBE", channel) for channel in CHANNELS])
            if found is not None:
                return Scout(raw), (found[0].decode(), int(found[1])), []
            _answers(raw, *[("UNSUBSCRIBE", channel) for channel in CHANNELS])
            (rows,) = _answers(raw, ("SENTINEL", "MASTERS"))
            fields = [dict(zip(row[::2], row[1::2], strict=False)) for row in rows]
            names = [row[b"name"].decode(errors="replace") for row in fields if b"name" in row]
        except BaseException:
            raw.disconnect()
            raise
        raw.disconnect()
        return None, None, names


class Scout:
    """Tells when the sentinels have made another server the primary.

    Without: an operator moves the primary (SENTINEL FAILOVER). The sentinels name the new one at once, but make the old one its
    replica, and so drop its clients, some 8 s later. What they write there until then is thrown away.
    """

    def __init__(self, raw: RawConnection) -> None:
        self._raw = raw
        #: word may have come right behind the confirmation: then it is in the reader's buffer
        self._moved = raw.can_read(timeout=0)
        if raw._sock is not None:
            raw._sock.settimeout(0)

    def moved(self) -> bool:
        """Say, without waiting, whether the place must be asked for again: word has come, or nobody is there to give word.

        About 1 us, before every call.
        """
        sock = self._raw._sock
        if self._moved or sock is None:
            return True
        try:
            sock.recv(1)
        except OSError as error:
            return not isinstance(error, BlockingIOError) and type(error).__name__ != "SSLWantReadError"
        return True

    def close(self) -> None:
        self._raw.disconnect()


class Reached(NamedTuple):
    """A primary that was found."""

    raw: RawConnection
    #: its place as ``host:port``
    at: str
    scout: Scout


def _answers(raw: RawConnection, *commands: tuple[str, ...]) -> list[Any]:
    """Send commands in one write and return their answers; the first error raises."""
    packed = b"".join(word for command in commands for word in raw.pack_command(*command))
    raw.send_packed_command([packed], check_health=False)
    return [raw.read_response() for _ in commands]


#: codes of refusals, as answers begin with them
_NO_LOGIN = ("noauth", "noperm", "wrongpass")


def _reason(error: Exception) -> str:
    """Say why a sentinel was of no use."""
    text = str(error).rstrip(".") or type(error).__name__
    lower = text.lower()
    if "unknown command" in lower and "sentinel" in lower:
        return "is a Redis server and no sentinel (their port is usually 26379)"
    kind = type(error).__name__
    if kind in ("LoginError", "AuthenticationError", "AuthorizationError", "NoPermissionError") or lower.startswith(_NO_LOGIN):
        return f"refused the login ({text}): give the sentinels' own sentinel_password in the URL"
    return f"did not answer ({text})"


def _listed(places: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in places)
