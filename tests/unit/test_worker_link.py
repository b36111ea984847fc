"""The link between supervisor and children."""

from __future__ import annotations

import os
import select
import threading

import pytest

from fastq.worker import link as link_module
from fastq.worker.link import Link, LinkError


def pair(patience_s: float = 5.0, *, fds: bool = False) -> tuple[Link, Link]:
    ours, theirs = Link.pair(patience_s=0, fds=fds)
    return ours, Link(theirs, patience_s=patience_s)


def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = pair()
    for i in range(100):
        theirs.send({"n": i, "text": "line\nbreak"})
    assert [m["n"] for m in ours.receive()] == list(range(100))
    assert ours.receive() == [] and not ours.closed
    ours.close()
    theirs.close()


def test_half_a_message_waits_for_its_rest() -> None:
    ours, theirs = pair()
    os.write(theirs.fileno(), b'{"a":')
    assert ours.receive() == []
    os.write(theirs.fileno(), b'1}\n{"b"')
    assert ours.receive() == [{"a": 1}]
    os.write(theirs.fileno(), b":2}\n")
    assert ours.receive() == [{"b": 2}]
    ours.close()
    theirs.close()


def test_a_conversation_takes_one_message_at_a_time() -> None:
    ours, theirs = pair()
    for i in range(3):
        theirs.send({"n": i})
    assert [ours.receive_one(), ours.receive_one()] == [{"n": 0}, {"n": 1}]
    assert select.select([ours], [], [], 0)[0], "the third is still to be seen from outside"
    assert ours.wait(0) == [{"n": 2}]
    theirs.close()
    assert ours.receive_one() is None
    ours.close()


def test_last_words_are_heard_before_the_end() -> None:
    ours, theirs = pair()
    theirs.send({"stopped": "warm"})
    theirs.close()
    assert ours.receive() == [{"stopped": "warm"}]
    ours.receive()
    assert ours.closed
    assert not ours.send({"stop": "warm"}), "sending to the dead is no error"
    ours.close()


def test_readable_at_the_end_of_the_file() -> None:
    ours, theirs = pair()
    theirs.close()
    assert select.select([ours], [], [], 5)[0]
    assert ours.receive() == [] and ours.closed
    ours.close()


def test_supervisor_never_waits_for_a_child_that_does_not_read() -> None:
    ours, theirs = pair()
    text = "x" * 100_000
    for i in range(20):
        ours.send({"n": i, "text": text})
    assert ours.pending
    got: list[int] = []
    while len(got) < 20:
        got += [m["n"] for m in theirs.receive()]
        ours.flush()
    assert got == list(range(20)) and not ours.pending
    ours.close()
    theirs.close()


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_MESSAGE", 1_000)
    ours, theirs = pair()
    with pytest.raises(LinkError, match="at most 1000"):
        ours.send({"text": "x" * 1_000})
    os.write(theirs.fileno(), b"x" * 1_001)
    with pytest.raises(LinkError, match="more than 1000"):
        ours.receive()
    ours.close()
    theirs.close()


def test_child_waits_until_a_long_hello_is_read() -> None:
    ours, theirs = pair()
    hello = {"tasks": [f"tasks.task_{i}" for i in range(100_000)]}
    sender = threading.Thread(target=theirs.send, args=(hello,))
    sender.start()
    messages: list[dict[str, object]] = []
    while not messages:
        messages = ours.wait(10)
    sender.join()
    assert messages == [hello]
    ours.close()
    theirs.close()


def test_child_gives_up_on_a_supervisor_that_never_reads() -> None:
    ours, theirs = pair(patience_s=0.05)
    with pytest.raises(LinkError, match=r"not read for 0\.05 s"):
        theirs.send({"text": "x" * 10_000_000})
    ours.close()
    theirs.close()


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n"])
def test_what_is_no_message_is_an_error(line: bytes) -> None:
    ours, theirs = pair()
    os.write(theirs.fileno(), line)
    with pytest.raises(LinkError):
        ours.receive()
    ours.close()
    theirs.close()


def test_descriptors_travel_beside_their_message() -> None:
    ours, theirs = pair(fds=True)
    pipes = [os.pipe() for _ in range(3)]
    for i, (read, _) in enumerate(pipes):
        theirs.send({"plain": i})
        theirs.send({"fork": i}, (read,))
    messages: list[dict[str, int]] = []
    while len(messages) < 6:
        messages += ours.wait(5)
    assert [m["fork"] for m in messages if "fork" in m] == [0, 1, 2]
    for _, write in pipes:
        os.write(write, str(write).encode())
    received = [ours.take_fds(1)[0] for _ in pipes]
    assert [int(os.read(fd, 10)) for fd in received] == [write for _, write in pipes]
    with pytest.raises(LinkError, match="1 descriptors announced, 0 received"):
        ours.take_fds(1)
    for fd in (*received, *(fd for both in pipes for fd in both)):
        os.close(fd)
    ours.close()
    theirs.close()
