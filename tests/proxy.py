"""A TCP proxy that makes trouble on demand: it cuts, refuses, delays, and goes silent as a half-open connection does.

``Proxy(port)`` runs in a thread of its own; ``python -m tests.proxy --target PORT`` is the same as a process that reads its orders
as lines, from stdin or a control port (see ``Control``). Without orders it passes bytes straight through, whole reads at a time.

Everything is owned by the proxy's thread; the public methods hand it an order and wait until it has been carried out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Proxy", "ProxyProcess"]

READ = 1 << 18
#: bytes that may wait for a slow reader before its sender is not read any more
BACKLOG = 1 << 22
#: bytes of a connection's first requests that are kept, to tell whose it is
GREETING = 4096
DEADLINE_S = 30.0
#: where a needle can cut
WHENS = ("request", "mid-request", "late", "reply", "mid-reply")


class _Side:
    """One socket of a link, and what waits to be written to it."""

    def __init__(self, sock: socket.socket, link: _Link) -> None:
        self.sock: socket.socket | None = sock
        self.link = link
        self.fd = sock.fileno()
        self.mask = 0
        #: (monotonic time at which it may go, bytes)
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.queued = 0
        #: its peer has said that nothing follows: say so too, when all is written
        self.ending = False
        self.shut = False
        self.eof = False


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket) -> None:
        self.client = _Side(client, self)
        self.server: _Side | None = None
        self.greeting = b""
        #: half-open: whatever comes is swallowed, nothing is passed on or ended
        self.frozen = False
        #: the end of what was read last, where a needle may have begun
        self.tail = b""
        #: a needle was seen in a request: what to do when the reply comes
        self.on_reply = ""
        #: cut on the client's side: the server may still finish reading
        self.lame = False
        #: a request that has not been delivered yet though its client is gone
        self.late = b""


class Proxy:
    """``with Proxy(target_port) as proxy: ...`` on 127.0.0.1.

    ``seed``: where in a request or reply a ``mid-`` cut falls; without one always in the middle.
    """

    def __init__(self, target_port: int, *, port: int = 0, seed: int | None = None) -> None:
        self.target_port = target_port
        #: seconds that bytes take, each way
        self.latency_s = 0.0
        #: new connections are closed at once
        self.refusing = False
        #: connections cut by a needle so far
        self.hits = 0
        #: connections taken so far
        self.accepted = 0
        self._random = random.Random(seed) if seed is not None else None
        self._needle = b""
        self._when = ""
        self._times = 0
        self._skip = 0
        self._frozen: bytes | None = None
        self._links: set[_Link] = set()
        self._sides: dict[int, _Side] = {}
        self._later: set[_Side] = set()
        self._orders: deque[Callable[[], None]] = deque()
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._running = True
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections are open on the clients' side."""
        return int(self._order(lambda: sum(link.client.sock is not None for link in self._links)))

    @property
    def ending(self) -> int:
        """How many connections were cut whose end the server has not seen yet: it may still be carrying out what it was sent."""
        return int(self._order(lambda: sum(link.lame and not link.late for link in self._links)))

    # --- orders ---

    def cut(self, only: bytes = b"") -> int:
        """Close connections with a reset, on both sides; return how many. ``only``: those whose first requests contain this."""

        def cut() -> int:
            chosen = [link for link in self._links if only in link.greeting]
            for link in chosen:
                self._drop(link)
            return len(chosen)

        return int(self._order(cut))

    def freeze(self, only: bytes = b"") -> int:
        """Go silent: what comes on any connection is swallowed, new ones are accepted and never answered. Return how many.

        ``only``: connections whose first requests contain this (such as a part of ``CLIENT SETNAME``); others go on.
        """

        def freeze() -> int:
            self._frozen = only
            for link in self._links:
                link.frozen = link.frozen or only in link.greeting
            return sum(link.frozen for link in self._links)

        return int(self._order(freeze))

    def thaw(self) -> None:
        """Serve new connections again. Those that were frozen stay half-open until their client gives them up, and on the
        server's side until ``cut()``: bytes are missing in them."""

        def thaw() -> None:
            self._frozen = None

        self._order(thaw)

    def cut_on(self, needle: bytes, when: str = "request", times: int = 1, *, skip: int = 0) -> None:
        """Pass over ``skip`` requests that contain ``needle``, then cut the connection of the next ``times``. ``when``:

        ``request``: nothing of what was read with it reaches the server. ``mid-request``: half of it does. ``late``: all of it
        does, but only at ``deliver()``. ``reply``: the server has carried it out, nothing of the reply is passed on.
        ``mid-reply``: half of the reply is. ``times=0``: disarm.
        """
        if when not in WHENS:
            raise ValueError(f"cut_on(when={when!r}): expected one of {', '.join(WHENS)}")

        def arm() -> None:
            self._needle, self._when, self._times, self._skip = (needle, when, times, skip) if times else (b"", "", 0, 0)
            for link in self._links:
                link.tail, link.on_reply = b"", ""

        self._order(arm)

    def deliver(self) -> int:
        """Pass on the requests that were held back as late; return how many. Nobody gets their replies."""

        def deliver() -> int:
            late = [link for link in self._links if link.late and link.server is not None]
            for link in late:
                assert link.server is not None
                self._send(link.server, link.late)
                link.late = b""
                link.server.ending = True
                self._write(link.server)
            return len(late)

        return int(self._order(deliver))

    def close(self) -> None:
        """Cut everything and end."""
        if self._thread.is_alive():
            self._order(self._stop)
            self._thread.join(DEADLINE_S)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _order(self, order: Callable[[], Any]) -> Any:
        done = threading.Event()
        answer: list[Any] = []

        def carry_out() -> None:
            try:
                answer.append(order())
            finally:
                done.set()

        self._orders.append(carry_out)
        os.write(self._wake_write, b"x")
        end = time.monotonic() + DEADLINE_S
        while not done.wait(0.1):
            if not self._thread.is_alive() or time.monotonic() > end:
                raise RuntimeError(f"the proxy on port {self.port} does not answer") from self._failure
        return answer[0]

    # --- the proxy's thread ---

    def _main(self) -> None:
        try:
            while self._running:
                timeout = -1.0
                if self._later:
                    due = min(side.queue[0][0] for side in self._later)
                    timeout = max(0.0, due - time.monotonic())
                for fd, events in self._epoll.poll(timeout):
                    if fd == self._wake_read:
                        os.read(fd, 4096)
                        while self._orders:
                            self._orders.popleft()()
                    elif fd == self._listener.fileno():
                        self._accept()
                    elif (side := self._sides.get(fd)) is not None:
                        self._handle(side, events)
                if self._later:
                    now = time.monotonic()
                    for side in [side for side in self._later if side.queue[0][0] <= now]:
                        self._later.discard(side)
                        self._write(side)
        except BaseException as failure:  # told to whoever gives the next order
            self._failure = failure
            raise
        finally:
            self._listener.close()
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _stop(self) -> None:
        self._running = False
        for link in list(self._links):
            self._drop(link)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            self.accepted += 1
            if self.refusing:
                _reset(sock)
                continue
            link = _Link(sock)
            link.frozen = self._frozen == b""
            if not link.frozen:
                try:
                    target = socket.create_connection(("127.0.0.1", self.target_port), timeout=5)
                except OSError:
                    _reset(sock)
                    continue
                link.server = _Side(target, link)
                self._add(link.server)
            self._links.add(link)
            self._add(link.client)

    def _add(self, side: _Side) -> None:
        assert side.sock is not None
        side.sock.setblocking(False)
        side.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sides[side.fd] = side
        side.mask = select.EPOLLIN
        self._epoll.register(side.fd, side.mask)

    def _handle(self, side: _Side, events: int) -> None:
        if events & select.EPOLLOUT:
            self._write(side)
        if side.sock is None or not events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) or side.eof:
            if events & (select.EPOLLHUP | select.EPOLLERR) and side.sock is not None:
                self._gone(side)
            return
        try:
            data = side.sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            self._gone(side)
            return
        link = side.link
        if not data:
            self._ended(side)
        elif side is link.client:
            self._request(link, data)
        else:
            self._reply(link, data)

    def _request(self, link: _Link, data: bytes) -> None:
        if len(link.greeting) < GREETING:
            link.greeting += data[: GREETING - len(link.greeting)]
            if self._frozen is not None and self._frozen in link.greeting:
                link.frozen = True
        if link.frozen or link.server is None:
            return
        if self._needle and not link.on_reply:
            seen, link.tail = self._needle in link.tail + data, data[-len(self._needle) + 1 :] if len(self._needle) > 1 else b""
            if seen and self._skip:
                self._skip -= 1
            elif seen:
                self._times -= 1
                when = self._when
                if not self._times:
                    self._needle = b""
                if when == "request":
                    self.hits += 1
                    self._drop(link)
                    return
                if when == "late":
                    self.hits += 1
                    link.late, link.lame = data, True
                    self._close(link.client, reset=True)
                    return
                if when == "mid-request":
                    self.hits += 1
                    self._send(link.server, data[: self._middle(data)])
                    self._lame(link)
                    return
                link.on_reply = when
        self._send(link.server, data)

    def _reply(self, link: _Link, data: bytes) -> None:
        if link.frozen or link.lame:
            return
        if link.on_reply:
            self.hits += 1
            if link.on_reply == "mid-reply":
                self._send(link.client, data[: self._middle(data)])
            self._lame(link)
            return
        self._send(link.client, data)

    def _middle(self, data: bytes) -> int:
        if len(data) < 2:
            return 0
        return len(data) // 2 if self._random is None else self._random.randrange(1, len(data))

    def _send(self, side: _Side, data: bytes) -> None:
        if side.sock is None:
            return
        if self.latency_s <= 0 and not side.queue:
            try:
                sent = side.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._gone(side)
                return
            if sent == len(data):
                return
            data = data[sent:]
        side.queue.append((time.monotonic() + self.latency_s, memoryview(data)))
        side.queued += len(data)
        self._write(side)

    def _write(self, side: _Side) -> None:
        """Write what is due; then wait for the rest to be due, or for room."""
        if side.sock is None:
            return
        now = time.monotonic()
        full = False
        while side.queue and side.queue[0][0] <= now:
            due, data = side.queue[0]
            try:
                sent = side.sock.send(data)
            except BlockingIOError:
                full = True
                break
            except OSError:
                self._gone(side)
                return
            side.queued -= sent
            if sent == len(data):
                side.queue.popleft()
            else:
                side.queue[0] = (due, data[sent:])
                full = True
                break
        if side.queue and not full:
            self._later.add(side)
        else:
            self._later.discard(side)
        self._listen(side, out=full)
        if not side.queue and side.ending and not side.shut:
            side.shut = True
            with contextlib.suppress(OSError):
                side.sock.shutdown(socket.SHUT_WR)
            self._tidy(side.link)
        other = self._other(side)
        if other is not None:
            self._listen(other, out=None)

    def _listen(self, side: _Side, out: bool | None) -> None:
        """Set what is waited for: its input, unless what it says cannot be passed on yet, and room if ``out``."""
        if side.sock is None:
            return
        mask = side.mask & select.EPOLLOUT if out is None else select.EPOLLOUT if out else 0
        other = self._other(side)
        if not side.eof and (other is None or other.queued < BACKLOG):
            mask |= select.EPOLLIN
        if mask != side.mask:
            side.mask = mask
            self._epoll.modify(side.fd, mask)

    def _other(self, side: _Side) -> _Side | None:
        return side.link.server if side is side.link.client else side.link.client

    def _lame(self, link: _Link) -> None:
        """End both sides in good order: what was sent to either arrives, what comes is swallowed."""
        link.lame = True
        for side in (link.client, link.server):
            if side is not None and side.sock is not None:
                side.ending = True
                self._write(side)

    def _ended(self, side: _Side) -> None:
        """One side says that nothing follows: pass that on, unless the link is half-open."""
        link = side.link
        side.eof = True
        other = self._other(side)
        if link.frozen:
            self._close(side)
            if other is None or other.sock is None:
                self._links.discard(link)
            return
        self._listen(side, out=None)
        if side is link.client and link.lame:
            self._close(side)
        if other is not None and not other.ending:
            other.ending = True
            self._write(other)
        self._tidy(link)

    def _gone(self, side: _Side) -> None:
        """A side was reset."""
        link = side.link
        if link.frozen:
            self._close(side)
            return
        if link.lame and side is link.client:
            self._close(side)
            self._tidy(link)
            return
        self._drop(link)

    def _tidy(self, link: _Link) -> None:
        """Close what has been ended both ways."""
        for side in (link.client, link.server):
            if side is not None and side.sock is not None and side.eof and side.shut:
                self._close(side)
        # a client that was cut gets no more than its end: what it still sends is answered with a reset
        if link.lame and link.client.sock is not None and link.client.shut:
            self._close(link.client)
        if link.client.sock is None and (link.server is None or link.server.sock is None):
            self._links.discard(link)

    def _drop(self, link: _Link) -> None:
        """Reset both sides."""
        for side in (link.client, link.server):
            if side is not None and side.sock is not None:
                self._close(side, reset=True)
        self._links.discard(link)

    def _close(self, side: _Side, reset: bool = False) -> None:
        sock, side.sock = side.sock, None
        if sock is None:
            return
        self._later.discard(side)
        self._sides.pop(side.fd, None)
        with contextlib.suppress(OSError):
            self._epoll.unregister(side.fd)
        if reset:
            _reset(sock)
        else:
            sock.close()


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Control:
    """Read orders, a line each, and answer each with a line: ``ok``, a number, or ``error: ...``.

    ``cut [text]``, ``freeze [text]``, ``thaw``, ``refuse on|off``, ``latency SECONDS``, ``cut_on NEEDLE [when [times]]``, ``hits``,
    ``connections``, ``quit``.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def obey(self, line: str) -> str:
        proxy = self._proxy
        verb, *words = line.split()
        if verb == "cut":
            return str(proxy.cut(words[0].encode() if words else b""))
        if verb == "freeze":
            return str(proxy.freeze(words[0].encode() if words else b""))
        if verb == "thaw":
            proxy.thaw()
        elif verb == "refuse":
            proxy.refusing = words[0] == "on"
        elif verb == "latency":
            proxy.latency_s = float(words[0])
        elif verb == "cut_on":
            proxy.cut_on(words[0].encode(), words[1] if len(words) > 1 else "request", int(words[2]) if len(words) > 2 else 1)
        elif verb == "hits":
            return str(proxy.hits)
        elif verb == "connections":
            return str(proxy.connections)
        else:
            return f"error: unknown order {verb!r}"
        return "ok"

    def serve(self, lines: Any, answers: Any) -> bool:
        """Obey until the end of ``lines`` or ``quit``; True: it was ``quit``."""
        for line in lines:
            if not line.strip():
                continue
            if line.strip() == "quit":
                return True
            try:
                answer = self.obey(line)
            except (ValueError, IndexError) as problem:
                answer = f"error: {problem}"
            print(answer, file=answers, flush=True)
        return False


class ProxyProcess:
    """The same as a process of its own, so that it shares no GIL with a busy test; orders are methods here too."""

    def __init__(self, target_port: int, *, port: int = 0, seed: int | None = None) -> None:
        import subprocess

        command = [sys.executable, "-m", "tests.proxy", "--target", str(target_port), "--port", str(port), "--control", "stdin"]
        if seed is not None:
            command += ["--seed", str(seed)]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self._process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )
        assert self._process.stdout is not None
        self._lock = threading.Lock()
        self.pid = self._process.pid
        self.port = int(self._process.stdout.readline().split()[-1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def order(self, line: str) -> str:
        """Give one of ``Control``'s orders; return the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"the proxy answered {answer!r} to {line!r}")
        return answer

    def cut(self, only: str = "") -> int:
        return int(self.order(f"cut {only}"))

    def freeze(self, only: str = "") -> int:
        return int(self.order(f"freeze {only}"))

    def thaw(self) -> None:
        self.order("thaw")

    def refuse(self, on: bool) -> None:
        self.order(f"refuse {'on' if on else 'off'}")

    def latency(self, seconds: float) -> None:
        self.order(f"latency {seconds}")

    def cut_on(self, needle: str, when: str = "request", times: int = 1) -> None:
        self.order(f"cut_on {needle} {when} {times}")

    @property
    def hits(self) -> int:
        return int(self.order("hits"))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # the end of its orders ends it
        self._process.wait(DEADLINE_S)
        self._process.stdout.close()

    def __enter__(self) -> ProxyProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.proxy", description=__doc__)
    parser.add_argument("--target", type=int, required=True, help="port on 127.0.0.1 to connect to")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any")
    parser.add_argument("--control", default="stdin", help="where orders come from: stdin, or a port to listen on")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Proxy(arguments.target, port=arguments.port, seed=arguments.seed) as proxy:
        print(f"proxy on port {proxy.port}", flush=True)
        control = Control(proxy)
        if arguments.control == "stdin":
            control.serve(sys.stdin, sys.stdout)
            return
        with socket.create_server(("127.0.0.1", int(arguments.control))) as listener:
            while True:
                sock, _ = listener.accept()
                with sock, sock.makefile("r") as lines, sock.makefile("w") as answers:
                    if control.serve(lines, answers):
                        return


if __name__ == "__main__":
    main()
