"""Names of nodes and processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from fastq.exceptions import ImproperlyConfigured
from fastq.worker.identity import Identity
from fastq.worker.procname import display_name, expand_node, set_process_name


def test_node_names_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "web1.example.org")
    assert expand_node(None) == "fastq@web1.example.org"
    assert expand_node("w1@%h") == "w1@web1.example.org"
    assert expand_node("%n@%d") == "web1@example.org"
    assert expand_node("w1") == "w1@web1.example.org"
    assert expand_node("100%%@x") == "100%@x"


@pytest.mark.parametrize("name", ["a b@c", "a\n@b"])
def test_node_names_that_would_break_lines_are_refused(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="node name"):
        expand_node(name)


def test_names_in_logs_have_no_spaces() -> None:
    assert display_name("prefork", 0) == "ForkPoolWorker-1"
    assert display_name("solo", 0) == "MainProcess"
    for pool in ("prefork", "threads", "gevent", "eventlet", "asyncio", "solo"):
        assert " " not in display_name(pool, 11)


def test_process_name_reaches_logging() -> None:
    code = (
        "import logging, sys; sys.path[:0] = [sys.argv[1]]\n"
        "from fastq.worker.procname import set_process_name\n"
        "set_process_name('ForkPoolWorker-3')\n"
        "logging.basicConfig(format='%(processName)s', stream=sys.stdout); logging.error('x')\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code, os.getcwd()], text=True) == "ForkPoolWorker-3\n"
    assert callable(set_process_name)


def test_process_names_are_never_used_twice() -> None:
    identity = Identity("w1@host.example")
    names = {identity.new_name(0) for _ in range(1_000)}
    assert len(names) == 1_000
    assert all(name.startswith("w1@host.example.0.") and identity.owns(name) and identity.same_node(name) for name in names)
    assert not identity.same_node(Identity("w1@host").new_name(0))


def in_a_process_that_is_gone() -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, Identity("n@h").new_name(3).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    name = os.read(read, 200).decode()
    os.close(read)
    os.close(write)
    return name


def test_names_of_a_supervisor_that_is_gone_are_known() -> None:
    assert Identity("n@h").is_gone(in_a_process_that_is_gone())


def test_a_zombie_supervisor_is_gone() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, Identity("n@h").new_name(3).encode())
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    name = os.read(read, 200).decode()
    assert Identity("n@h").is_gone(name)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def test_the_living_and_strangers_are_not_gone() -> None:
    identity = Identity("n@h")
    dead = in_a_process_that_is_gone()
    host, pid, start, random = dead.rpartition(".")[2].split("-")
    assert not identity.is_gone(identity.new_name(0))
    assert not identity.is_gone(f"n@h.0.{'0' * 12}-{pid}-{start}-{random}"), "another host, or another boot of this one"
    assert not identity.is_gone(f"n@h.0.{host}-{os.getppid()}-0-{random}x"), "not our format"
    assert not identity.is_gone("n@h.0.random")


def test_a_pid_that_was_given_to_somebody_else_is_gone() -> None:
    identity = Identity("n@h")
    host = identity.new_name(0).rpartition(".")[2].split("-")[0]
    assert identity.is_gone(f"n@h.0.{host}-{os.getppid()}-1-{'0' * 8}")
