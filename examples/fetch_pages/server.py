"""A small HTTP server whose every page takes 50 ms, and which counts the requests that it has in hand at once.

``python server.py`` prints its port, serves on the loopback interface until it is terminated, and answers:
/page/N after 50 ms · /stats with the counts as JSON · /reset with the counts set to zero.
"""

from __future__ import annotations

import asyncio
import json

LATENCY_S = 0.05
#: connections waiting to be accepted: 500 slots may all connect in the same instant
BACKLOG = 1024


class Counts:
    """Requests answered, in hand now, and in hand at once at most."""

    def __init__(self) -> None:
        self.answered = self.in_flight = self.most_in_flight = 0


class Pages(asyncio.Protocol):
    """One connection: read one request, answer it, close."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.request = b""
        self.waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.request += data
        if self.waiting is not None or b"\r\n\r\n" not in self.request:
            return
        path = self.request.split(b" ", 2)[1].decode("ascii", "replace")
        counts = self.counts
        if path.startswith("/page/"):
            counts.in_flight += 1
            counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)
            self.waiting = asyncio.get_running_loop().call_later(LATENCY_S, self.page, path)
            return
        if path == "/reset":
            counts.answered = counts.most_in_flight = 0
        self.answer(json.dumps(vars(counts)).encode())

    def page(self, path: str) -> None:
        self.waiting = None
        self.counts.in_flight -= 1
        self.counts.answered += 1
        self.answer(f"<title>{path}</title>{'<p>All work and no play</p>' * 40}".encode())

    def answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None:  # the client did not wait
            self.waiting.cancel()
            self.counts.in_flight -= 1


async def main() -> None:
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(lambda: Pages(counts), "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
