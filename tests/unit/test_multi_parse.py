"""What ``fastq multi`` makes of its arguments."""

from __future__ import annotations

import click
import pytest

from fastq.cli.multi.nodes import nodes_of
from fastq.cli.multi.parse import parse, signal_number

FLAGS = {"-E", "--task-events", "--purge"}
VALUED = {"-c", "--concurrency", "-l", "--loglevel", "-Q", "-A"}


def commands(*arguments: str) -> dict[str, list[str]]:
    """Return what each node is started with, but for its files and its name."""
    nodes = nodes_of(parse(arguments, FLAGS, VALUED))
    own = ("--pidfile", "--logfile", "--hostname")
    return {node.name: [word for word in node.arguments[2:] if not word.startswith(own)] for node in nodes}


def test_options_go_to_every_node() -> None:
    assert commands("w1@a", "-c", "3", "w2@b", "-E", "--loglevel=INFO") == {
        name: ["-c", "3", "-E", "--loglevel=INFO"] for name in ("w1@a", "w2@b")
    }


def test_a_number_stands_for_so_many_nodes() -> None:
    assert list(commands("3", "--suffix=h")) == ["fastq1@h", "fastq2@h", "fastq3@h"]
    assert list(commands("2", "--range-prefix=w", "-n", "h")) == ["w1@h", "w2@h"]


@pytest.mark.parametrize("which", ["1", "w1", "w1@h", "1-1", "1,w1"])
def test_options_of_some_nodes_win_over_those_of_all(which: str) -> None:
    assert commands("w1@h", "w2@h", "-c", "3", f"-c:{which}", "10", f"--loglevel:{which}=DEBUG") == {
        "w1@h": ["-c", "10", "--loglevel=DEBUG"],
        "w2@h": ["-c", "3"],
    }


def test_an_attached_value_and_a_flag_in_front_of_a_name_are_understood() -> None:
    assert commands("-E", "w1@h", "-c3", "-lINFO") == {"w1@h": ["-E", "-c", "3", "-l", "INFO"]}


def test_a_long_option_of_the_worker_may_stand_apart_from_its_value() -> None:
    assert commands("w1@h", "--concurrency", "4") == {"w1@h": ["--concurrency=4"]}


def test_what_stands_behind_two_dashes_is_passed_on() -> None:
    assert commands("w1@h", "--", "worker.lease=20") == {"w1@h": ["worker.lease=20"]}


def test_files_are_named_after_the_node_and_processes_name_their_own() -> None:
    (node,) = nodes_of(parse(["w1@h", "--pidfile=/run/%n.pid", "--logfile=/log/%n%I.log"], FLAGS, VALUED))
    assert str(node.pidfile) == "/run/w1.pid"
    assert node.arguments[-3:] == ("--pidfile=/run/w1.pid", "--logfile=/log/w1%I.log", "--hostname=w1@h")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "No node is named"),
        (["0"], "expected 1 to 1000"),
        (["w1@h", "w1@h"], "named twice"),
        (["w1@h", "-c:3", "1"], "there are nodes 1 to 1"),
        (["w1@h", "-c:w9", "1"], "no node is called 'w9'"),
        (["w1@h", "-c:", "1"], "nodes are named behind the colon"),
        (["w1@h", "-c"], "requires an argument"),
        (["w1", "-n", "w1@h"], "'w1@h' is no host"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        nodes_of(parse(arguments, FLAGS, VALUED))


def test_a_signal_is_a_number_or_a_name() -> None:
    assert signal_number("-9") == signal_number("-KILL") == signal_number("-SIGKILL") == 9
    assert signal_number("-E") is None and signal_number("--quiet") is None
    with pytest.raises(click.UsageError, match="no signal 999"):
        signal_number("-999")
    assert parse(["w1", "-TERM"], FLAGS, VALUED, signals=True).signal == 15
