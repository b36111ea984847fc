"""``fastq worker --purge``: drop what waits in a worker's queues, once, before it takes its first task."""

from __future__ import annotations

from fastq.transports import open_inspector
from fastq.transports.base import TransportOptions
from fastq.worker.hello import Hello
from fastq.worker.say import say

__all__ = ["erase"]


def erase(hello: Hello) -> None:
    """Drop ready and delayed messages of the node's queues. OperationalError: the broker cannot be reached."""
    inspector = open_inspector(hello.broker_url, TransportOptions(**hello.transport))
    try:
        dropped = sum(inspector.purge(queue) for queue in hello.queues)
    finally:
        inspector.close()
    say(f"purge: Erased {dropped} {'message' if dropped == 1 else 'messages'} from {', '.join(hello.queues)}.")
