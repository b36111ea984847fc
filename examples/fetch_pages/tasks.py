"""Fetch one page, in two styles: plain for threads, gevent and eventlet; ``async def`` for asyncio."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from urllib.parse import urlsplit

from fastq import FastQ

# A queue of its own: the broker may be shared with other applications.
app = FastQ("fetch_pages", task_default_queue="fetch_pages")

#: without looking for proxies in the environment at each request; the pages are on this machine
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Busy:
    """Count the fetches that are between their first and last line at once, in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


busy = Busy()


@app.task
def fetch(url: str) -> int:
    """Return the size of a page. On gevent and eventlet the sockets underneath are patched to switch greenlets."""
    with busy, opener.open(url, timeout=30) as response:
        return len(response.read())


@app.task
async def fetch_async(url: str) -> int:
    """The same on the event loop, with nothing but the standard library."""
    parts = urlsplit(url)
    with busy:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise OSError(f"{url} answered {status.decode()}")
    return len(body)


@app.task
def most_busy() -> int:
    """Say how many fetches this worker process had begun and not ended, at most (and answer, when it is up)."""
    return busy.most
